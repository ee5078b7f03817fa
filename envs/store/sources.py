"""The provider Protocols of envs/provider.py, answered through a store.

Each wraps the provider that is asked on a miss; a replay has none. Tools cannot tell the
difference, so every one of them can also be given a provider directly.
"""

from dataclasses import replace
from typing import TypeVar

from core.records import FoundImage
from envs.provider import (
    Fetched,
    ImageSearch,
    Page,
    PageReader,
    SearchHit,
    Summariser,
    TextSearch,
)
from envs.store.read_through import ReadThrough
from envs.store.values import Kind, canonical_json, sha256_of

T = TypeVar("T")

REPLAYED = "replay"
"""The version where there is no provider; a replay finds entries of every version."""


class StoredSearch:
    """Implements TextSearch."""

    def __init__(self, cache: ReadThrough, provider: TextSearch | None) -> None:
        self._cache = cache
        self._provider = provider

    @property
    def version(self) -> str:
        return self._provider.version if self._provider else REPLAYED

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        provider = self._provider
        found = await self._cache.get(
            Kind.SEARCH,
            {"query": query, "k": k},
            version=self.version,
            fetch=(lambda: provider.search(query, k=k)) if provider else None,
        )
        return _first(found, k)


class StoredImageSearch:
    """Implements ImageSearch."""

    def __init__(self, cache: ReadThrough, provider: ImageSearch | None) -> None:
        self._cache = cache
        self._provider = provider

    @property
    def version(self) -> str:
        return self._provider.version if self._provider else REPLAYED

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        provider = self._provider
        found = await self._cache.get(
            Kind.IMAGE_SEARCH,
            {"query": query, "k": k},
            version=self.version,
            fetch=(lambda: provider.image_search(query, k=k)) if provider else None,
        )
        return _first(found, k)


class StoredPages:
    """Implements PageReader."""

    def __init__(self, cache: ReadThrough, provider: PageReader | None) -> None:
        self._cache = cache
        self._provider = provider

    @property
    def version(self) -> str:
        return self._provider.version if self._provider else REPLAYED

    async def page(self, url: str) -> Fetched[Page | None]:
        provider = self._provider
        return await self._cache.get(
            Kind.PAGE,
            {"url": url},
            version=self.version,
            fetch=(lambda: provider.page(url)) if provider else None,
        )


class StoredSummaries:
    """Implements Summariser; a page that reads differently is another page."""

    def __init__(self, cache: ReadThrough, provider: Summariser | None) -> None:
        self._cache = cache
        self._provider = provider

    @property
    def version(self) -> str:
        return self._provider.version if self._provider else REPLAYED

    async def answer(self, page: Page, *, query: str) -> Fetched[str]:
        provider = self._provider
        digest = sha256_of(canonical_json([page.url, page.title, page.text]))
        return await self._cache.get(
            Kind.SUMMARY,
            {"page": digest, "query": query},
            version=self.version,
            fetch=(lambda: provider.answer(page, query=query)) if provider else None,
        )


def _first(found: Fetched[tuple[T, ...]], k: int) -> Fetched[tuple[T, ...]]:
    """A stand-in may have been recorded with more results than are asked for."""
    return found if len(found.value) <= k else replace(found, value=found.value[:k])
