"""What the tools ask of whoever knows the world: an on-disk corpus, or services on the web."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.records import FoundImage


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """One page that a text search found. All of it is untrusted text."""

    url: str
    title: str
    snippet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page as text or markdown. All of it is untrusted text."""

    url: str
    title: str
    text: str


class SearchProvider(Protocol):
    """Every method raises ToolError when the provider is down after its own retries."""

    @property
    def version(self) -> str:
        """Changes when equal calls may give other results; part of every cache key."""
        ...

    async def search(self, query: str, *, k: int) -> Sequence[SearchHit]:
        """At most `k` pages, best first."""
        ...

    async def image_search(self, query: str, *, k: int) -> Sequence[FoundImage]:
        """At most `k` images whose bytes are in the image store."""
        ...

    async def page(self, url: str) -> Page | None:
        """None: there is no such page, or `url` is not one that may be read."""
        ...
