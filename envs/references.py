"""Fewer references than an answer chose: its prompt must not point at the ones left out.

In: a prompt that counts its references, how many there are, how many are kept (the first ones, so
their places stay). Out: the prompt in which

- a list of places loses those left out ("the first and fourth reference images" -> "the first
  reference image");
- a mention of nothing but images left out goes with the preposition before it, or else becomes
  "the description";
- a count ("both reference images") becomes what is left of it.

Understood are ordinals ("the second reference image", "2nd", "last"), numbers ("reference image
2", "Image 2", "images 2-4") and, when nothing is kept, plain "the reference image". Everything
else stays letter by letter. A short mention ("image 4", "the fourth reference") is one only where
no noun follows it and no quotation marks stand around it: "a picture 4 metres wide", "the fourth
reference book" and the words "Photo 4" on a sign are none.
"""

import re
from collections.abc import Sequence

from envs.answers import ORDINALS

_WORDS = {word: place for place, word in enumerate(ORDINALS, start=1)}
_COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_REPLACEMENT = "the description"

_ORDINAL = rf"(?:{'|'.join(ORDINALS)}|last|final|\d{{1,2}}(?:st|nd|rd|th))"
_JOIN = r"(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|to)\s+|\s*(?:-|\u2013|&)\s*)"
_IMAGES = r"reference\s+(?:image|picture|photo)s?"
_GOES_ON = (  # behind a short mention: its clause ends, or goes on without a noun
    r"(?=\s*(?:\Z|[.,;:!?)\]\"'\u2019\u201d\u2014])|\s+(?:and|or|but|as|for|to|in|on|at|with|by|from|"
    r"into|over|under|behind|beside|near|while|where|which|that|is|are|was|were|has|have|shows?|"
    r"depicts?|gives?|must|should|may|can|will|too|only|instead)\b)"
)
_NOUN = rf"(?:{_IMAGES}|references?(?!\s+to\b){_GOES_ON})"
_LEAD = (
    r"(?:(?:in\s+the\s+style\s+of|with\s+reference\s+to|according\s+to|based\s+on|similar\s+to|"
    r"(?:as\s+)?(?:shown\s+|seen\s+|depicted\s+)?"
    r"(?:of|from|in|on|by|with|like|to|per|using|matching|following))\s+)"
)
_BEFORE = rf"(?P<lead>\s*\b{_LEAD})?(?P<the>\bthe\s+)?"
_PLACES = re.compile(
    rf"{_BEFORE}(?P<places>\b{_ORDINAL}(?:{_JOIN}(?:the\s+)?{_ORDINAL})*)\s+(?P<noun>{_NOUN})\b",
    re.IGNORECASE,
)


def _numbered(noun: str, after: str = "") -> re.Pattern[str]:
    return re.compile(
        rf"{_BEFORE}(?P<noun>\b{noun})\s*(?:#|no\.\s*|number\s+)?"
        rf"(?P<places>(?<![\w#])#?\d{{1,2}}(?:{_JOIN}#?\d{{1,2}})*)(?![\w%]|[.:,-]\d){after}",
        re.IGNORECASE,
    )


_NUMBERS = _numbered(_IMAGES)
_SHORT_NUMBERS = _numbered(
    r"(?<!reference\s)(?<!\ba\s)(?<!\ban\s)(?:references?|(?:image|picture|photo)s?)",
    rf"(?!{_JOIN}#?\d){_GOES_ON}",
)
_QUOTED = re.compile(r"\"[^\"\n]*\"|\u201c[^\u201d\n]*\u201d")
_COUNT = re.compile(
    rf"\b(?:both|(?:all\s+|all\s+of\s+)?(?:the\s+|these\s+)?(?:first\s+)?"
    rf"(?P<count>{'|'.join(_COUNTS)}|\d{{1,2}}))"
    rf"(?:\s+of\s+the)?\s+{_NOUN}(?!\w)",
    re.IGNORECASE,
)
_PLAIN = re.compile(
    rf"(?P<lead>\s*\b{_LEAD})?\b(?:the|a|an|any|all|all\s+the|these|this)\s+{_NOUN}(?!\w)",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\bto\b|-|\u2013")


def keep_first_references(prompt: str, *, total: int, kept: int) -> str:
    """The prompt for the first `kept` of its `total` references; unchanged when all are kept."""
    if kept >= total:
        return prompt
    while (shorter := _pass(prompt, total=total, kept=kept)) != prompt:
        prompt = shorter  # what was taken out may have stood inside another mention
    return re.sub(r"^\s*[,;]\s*", "", prompt)


def places_named(prompt: str, *, total: int) -> tuple[int, ...]:
    """Every place that the prompt points at, in the order of the text."""
    found = [
        (match.start(), _read_places(match["places"], total=total))
        for pattern in (_PLACES, _NUMBERS, _SHORT_NUMBERS)
        for match in pattern.finditer(prompt)
        if pattern is not _SHORT_NUMBERS or not _is_quoted(match)
    ]
    return tuple(place for _, places in sorted(found) for place in places)


def _pass(prompt: str, *, total: int, kept: int) -> str:
    def by_ordinal(match: re.Match[str]) -> str:
        places = _read_places(match["places"], total=total)
        left = [place for place in places if place <= kept]
        if len(left) == len(places):
            return match[0]
        names = [ORDINALS[place - 1] for place in left]
        return _mention(match, f"{_listed(names)} {_noun(match['noun'], len(left))}", left)

    def by_number(match: re.Match[str]) -> str:
        places = _read_places(match["places"], total=total)
        left = [place for place in places if place <= kept]
        if len(left) == len(places):
            return match[0]
        return _mention(match, f"{_noun(match['noun'], len(left))} {_listed(left)}", left)

    def by_short_number(match: re.Match[str]) -> str:
        counts_none = min(_read_places(match["places"], total=total)) > total
        if _is_quoted(match) or (counts_none and "reference" not in match["noun"].lower()):
            return match[0]  # "image 50" counts no reference
        return by_number(match)

    def by_count(match: re.Match[str]) -> str:
        if _read_count(match["count"]) <= kept:
            return match[0]
        nouns = {0: _REPLACEMENT, 1: "the reference image"}
        text = nouns.get(kept) or f"the {_COUNTS[kept - 2]} reference images"
        return _as_begun(match, text)

    prompt = _NUMBERS.sub(by_number, _PLACES.sub(by_ordinal, prompt))
    prompt = _SHORT_NUMBERS.sub(by_short_number, prompt)
    prompt = _COUNT.sub(by_count, prompt)
    if kept == 0:
        prompt = _PLAIN.sub(lambda m: "" if m["lead"] else _as_begun(m, _REPLACEMENT), prompt)
    return prompt


def _is_quoted(match: re.Match[str]) -> bool:
    """Words to be drawn, as a rule."""
    quoted = _QUOTED.finditer(match.string)
    return any(span.start() < match.start("noun") < span.end() for span in quoted)


def _mention(match: re.Match[str], text: str, left: Sequence[int]) -> str:
    """The mention with what is left of it."""
    lead, article = match["lead"] or "", match["the"] or ""
    if left:
        return f"{lead}{article}{text}"
    if lead:
        return ""
    return _as_begun(match, _REPLACEMENT)


def _as_begun(match: re.Match[str], text: str) -> str:
    """With a capital where the mention had one."""
    return text[0].upper() + text[1:] if match[0].lstrip()[0].isupper() else text


def _read_places(text: str, *, total: int) -> list[int]:
    """["first", "to", "third"] -> [1, 2, 3]."""
    pieces = [
        (match.start(), match.end(), _read_place(match[0].lower(), total=total))
        for match in re.finditer(rf"{_ORDINAL}|\d{{1,2}}", text, re.IGNORECASE)
    ]
    places: list[int] = []
    for index, (start, _, place) in enumerate(pieces):
        if index and _RANGE.search(text[pieces[index - 1][1] : start]):
            places += range(places[-1] + 1, place)
        places.append(place)
    return places


def _read_place(word: str, *, total: int) -> int:
    if word in ("last", "final"):
        return total
    return _WORDS.get(word) or int(re.sub(r"\D", "", word))


def _read_count(word: str | None) -> int:
    if word is None:  # both
        return 2
    return int(word) if word.isdigit() else _COUNTS.index(word.lower()) + 2


def _listed(items: Sequence[object]) -> str:
    *most, last = map(str, items or [""])
    return f"{', '.join(most)} and {last}" if most else last


def _noun(noun: str, count: int) -> str:
    """The noun in the number that fits."""
    return noun if count > 1 else re.sub(r"s\b$", "", noun)
