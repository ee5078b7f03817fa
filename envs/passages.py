"""The parts of a page that speak about a query, within a budget of characters.

In: text that nobody vouches for. Out: one line of printable characters. Never fails; when no part
has a word of the query, the beginning of the page is what comes out.
"""

import math
import re
from collections import Counter

from envs.words import words_of

PASSAGE_CHARS = 600

_PARAGRAPH = re.compile(r"\n\s*\n")


def one_line(text: str, *, max_chars: int) -> str:
    """`text` without line breaks, control, format and surrogate characters, cut to `max_chars`."""
    line = " ".join(text.split())
    if not line.isprintable():
        line = " ".join("".join(char if char.isprintable() else " " for char in line).split())
    return line if len(line) <= max_chars else line[: max_chars - 3].rstrip() + "..."


def relevant_passages(text: str, query: str, *, max_chars: int) -> str:
    """The passages that share the rarest words with `query`, in the order of the page."""
    whole = one_line(text, max_chars=len(text))
    if len(whole) <= max_chars:
        return whole
    passages = _split(text)
    scores = _scores(passages, query)
    ranked = sorted(range(len(passages)), key=lambda number: (-scores[number], number))
    chosen: list[int] = []
    room = max_chars
    for number in ranked:
        room -= len(passages[number]) + len(" ... ")
        if room < 0:
            break
        chosen.append(number)
    if not chosen:
        return one_line(text, max_chars=max_chars)
    return " ... ".join(passages[number] for number in sorted(chosen))


def _split(text: str) -> list[str]:
    """Paragraphs as lines; long ones are cut between words into parts of PASSAGE_CHARS."""
    passages: list[str] = []
    for paragraph in _PARAGRAPH.split(text):
        line = one_line(paragraph, max_chars=max(3, len(paragraph)))
        start = 0
        while len(line) - start > PASSAGE_CHARS:
            cut = line.rfind(" ", start + 1, start + PASSAGE_CHARS)
            cut = cut if cut > 0 else start + PASSAGE_CHARS
            passages.append(line[start:cut])
            start = cut + (line[cut] == " ")
        if start < len(line):
            passages.append(line[start:])
    return passages


def _scores(passages: list[str], query: str) -> list[float]:
    """Sum over the query's words of idf * tf / (tf + 1): BM25 without length, k1 = 1."""
    counts = [Counter(words_of(passage)) for passage in passages]
    words = set(words_of(query))
    found_in = {word: sum(word in count for count in counts) for word in words}
    idf = {word: math.log(1 + len(passages) / found) for word, found in found_in.items() if found}
    return [
        math.fsum(idf[word] * count[word] / (count[word] + 1) for word in idf) for count in counts
    ]
