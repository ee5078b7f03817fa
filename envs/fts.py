"""Queries for SQLite's FTS5, made of text that anybody may have written.

FTS5's words are what stands between spaces and signs. Where a text is indexed `spaced`, each
character of a script without spaces is a word, and a query asks for every two neighbours of its own
side by side: "東京都" finds what has "東京" or "京都". (FTS5's trigrams would find no word of two
characters, which most Chinese ones are.)

Texts are indexed in their `plain_form`, and queries ask in theirs: full-width letters and digits
find the plain ones, and are found by them.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from envs.words import UNSPACED, is_character, plain_form

MAX_QUERY_WORDS = 64

_WORD = re.compile(r"[^\W_]+")
_RUN = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]+")
_CUT = f"{UNSPACED}\uff66-\uff9d"
"""With half-width kana, whose plain forms are cut; their voice marks stay with them."""
_SEAM = re.compile(rf"(?<=[{_CUT}])(?=[^\s\uff9e\uff9f])|(?<=\S)(?=[{_CUT}])")
_SEPARATOR = "\x1f"
"""ASCII's unit separator; no page has one."""


def spaced(text: str) -> str:
    """The text with its words apart, see above; `unspaced` takes it back."""
    return text if text.isascii() else _SEAM.sub(_SEPARATOR, text)


def unspaced(text: str) -> str:
    return text.replace(_SEPARATOR, "")


def match_any_word(query: str) -> str | None:
    """An FTS5 expression for rows with any of the words; None when there is no word.

    Every word is quoted, so none is FTS syntax.
    """
    return _any_of(_WORD.findall(plain_form(query).lower()))


def match_any_word_of_spaced(query: str) -> str | None:
    """The same for rows that were indexed `spaced`."""
    return _any_of(_spaced_words(plain_form(query).lower()))


def _spaced_words(query: str) -> Iterator[str]:
    for run in _RUN.findall(query):
        if is_character(run):
            characters = [one for one in run if one.isalnum()]  # Thai vowels above are none
            yield from map(" ".join, pairwise(characters)) if len(characters) > 1 else characters
        else:
            yield run


def _any_of(words: Iterable[str]) -> str | None:
    few = list(dict.fromkeys(words))[:MAX_QUERY_WORDS]
    return " OR ".join(f'"{word}"' for word in few) or None
