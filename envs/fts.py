"""Queries for SQLite's FTS5, made of text that anybody may have written."""

import re

MAX_QUERY_WORDS = 64

_WORD = re.compile(r"[^\W_]+")


def match_any_word(query: str) -> str | None:
    """An FTS5 expression for rows with any of the words; None when there is no word.

    Every word is quoted, so none is FTS syntax.
    """
    words = list(dict.fromkeys(_WORD.findall(query.lower())))[:MAX_QUERY_WORDS]
    return " OR ".join(f'"{word}"' for word in words) or None
