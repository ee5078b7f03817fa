"""Text from outside, made harmless: no control token and no tag can be read out of it.

In: text that a stranger wrote, and the tokens and tags that only we may write. Out: the same text
with a space after the first character of whatever reads as one of them ("< think>"), and nothing
else changed. A tag is recognised in any case, behind any compatibility form (full-width brackets,
ligatures) and through any invisible characters, because a later Unicode normalisation or clean-up
could bring it out. Never fails.
"""

import re
import unicodedata
from collections.abc import Iterable

OPENINGS = "<\ufe64\uff1c"
"""Every character that is "<" after NFKC; each token and tag begins with one."""
_INVISIBLE = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f"
    r"\U000e0000-\U000e0fff]"
)
"""Default-ignorable characters beside the categories Cf and Cc."""


class TagBreaker:
    """For one set of tags, e.g. those of a tokenizer."""

    def __init__(self, tags: Iterable[str]) -> None:
        """Every tag begins with "<"."""
        self._tags = frozenset(tag.casefold() for tag in tags)
        self._beginnings = frozenset(tag[:size] for tag in self._tags for size in range(len(tag)))
        self._opening = re.compile(f"[{OPENINGS}]")

    def break_tags(self, text: str) -> str:
        valid = text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold lone surrogates
        pieces, done = [], 0
        for match in self._opening.finditer(valid):
            if self._begins_tag(valid, match.start()):
                pieces.append(valid[done : match.end()])
                done = match.end()
        return " ".join([*pieces, valid[done:]])

    def _begins_tag(self, text: str, start: int) -> bool:
        """Linear in all of `text`: no beginning of a tag goes on over a second "<"."""
        plain = ""
        for number in range(start, len(text)):
            for char in _plain(text[number]):
                plain += char
                if plain in self._tags:
                    return True
                if plain not in self._beginnings:
                    return False
        return False


def _plain(char: str) -> str:
    """What a reader that normalises would make of it; "" when it cannot be seen."""
    if char.isascii() and char.isprintable():
        return char.lower()
    if char not in "\t\n\r" and unicodedata.category(char) in ("Cf", "Cc"):
        return ""
    return "" if _INVISIBLE.match(char) else unicodedata.normalize("NFKC", char).casefold()
