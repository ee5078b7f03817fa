"""Results as lines of text: one page is one line, so that no page can forge another one's."""

import functools

from envs.passages import one_line
from envs.provider import Fetched, SearchHit
from envs.tools.base import MAX_QUERY_CHARS, MAX_URL_CHARS

MAX_TITLE_CHARS = 160
MAX_SNIPPET_CHARS = 400
NOTHING_FOUND = "nothing found"
LINES_KEPT = 4096
"""A kept answer is made into text once, however often it is asked for."""


@functools.lru_cache(maxsize=LINES_KEPT)
def hit_line(hit: SearchHit, *, max_chars: int = MAX_SNIPPET_CHARS) -> str:
    url = one_line(hit.url, max_chars=MAX_URL_CHARS)
    title = one_line(hit.title, max_chars=MAX_TITLE_CHARS)
    return f"[{url}] {title}: {one_line(hit.snippet, max_chars=max_chars)}"


def stand_in_lines(asked: str, fetched: Fetched[object]) -> list[str]:
    """Says so when the answer is that of another query; else nothing."""
    if fetched.stand_in is None:
        return []
    recorded = one_line(fetched.stand_in, max_chars=MAX_QUERY_CHARS)
    return [f'no answer to "{asked}" was recorded; this one is to "{recorded}"']
