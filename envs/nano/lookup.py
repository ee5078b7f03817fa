"""Searches the nano world in memory, ranked as SQLite's FTS5 ranks it.

In: a `World` and a query. Out: the best pages or images. The model recipes and the tests play
thousands of episodes with it; training and evaluation use the real search backend.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from envs.nano.world import NanoImage, Page, World

_K1: Final = 1.2
_B: Final = 0.75
_MIN_IDF: Final = 1e-6
TITLE_WEIGHT: Final = 10.0


class Ranking:
    """BM25 over rows of text columns, as FTS5 computes it: the words of a query are or-ed."""

    def __init__(self, rows: Sequence[tuple[str, ...]], *, weights: tuple[float, ...]) -> None:
        self._frequency: dict[str, dict[int, float]] = defaultdict(dict)
        self._lengths = []
        for number, row in enumerate(rows):
            columns = [_words(column) for column in row]
            self._lengths.append(sum(map(len, columns)))
            for column, weight in zip(columns, weights, strict=True):
                for word, count in Counter(column).items():
                    hits = self._frequency[word]
                    hits[number] = hits.get(number, 0.0) + weight * count
        self._mean_length = sum(self._lengths) / max(1, len(self._lengths))

    def best(self, query: str, *, num: int) -> list[int]:
        """Row numbers, best first; equal scores by row number."""
        scores: dict[int, float] = defaultdict(float)
        for word in dict.fromkeys(_words(query)):
            hits = self._frequency.get(word, {})
            idf = math.log((len(self._lengths) - len(hits) + 0.5) / (len(hits) + 0.5))
            for number, frequency in hits.items():
                length = _K1 * (1 - _B + _B * self._lengths[number] / self._mean_length)
                scores[number] += max(idf, _MIN_IDF) * frequency * (_K1 + 1) / (frequency + length)
        return sorted(scores, key=lambda number: (-scores[number], number))[:num]


class Lookup:
    """`search` and `image_search` over one world."""

    def __init__(self, world: World, *, num_pages: int = 3, num_images: int = 3) -> None:
        self._pages = world.pages()
        self._images = world.images()
        self._num_pages = num_pages
        self._num_images = num_images
        self._page_ranking = Ranking(
            [(page.title, page.text) for page in self._pages], weights=(TITLE_WEIGHT, 1.0)
        )
        self._image_ranking = Ranking([(image.caption,) for image in self._images], weights=(1.0,))

    def search(self, query: str) -> list[Page]:
        return [self._pages[n] for n in self._page_ranking.best(query, num=self._num_pages)]

    def image_search(self, query: str) -> list[NanoImage]:
        """The best images in an order that says nothing of their rank; equal pictures once."""
        best = self._image_ranking.best(query, num=self._num_images)
        drawn = sorted((self._images[n] for n in best), key=lambda image: _draw(query, image.url))
        return list({image.flag: image for image in reversed(drawn)}.values())[::-1]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _draw(query: str, url: str) -> str:
    return hashlib.sha256(f"{query}|{url}".encode()).hexdigest()
