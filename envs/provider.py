"""What the tools ask of whoever knows the world: an on-disk corpus, or services on the web."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from core.records import FoundImage

T = TypeVar("T", covariant=True)

Pay = Callable[[str, float], None]
"""Told of a provider's name and dollars the moment that it has answered: whatever becomes of the
answer, they are owed."""


def nobody_pays(provider: str, usd: float) -> None:
    """Where dollars are not counted."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Generic[T]):
    """What a provider gave, and what it took."""

    value: T
    provider: str
    """Which one of a fall-back list answered."""
    upstream_calls: int = 0
    """Operations that left this machine; 0 for what is on disk."""
    cost_usd: float = 0.0
    cached: bool = False
    """It came from the store, or from an equal call in flight."""
    stand_in: str | None = None
    """The recorded query whose answer this is, when a replay had none for the query asked."""


class TextSearch(Protocol):
    """Finds pages. Raises ToolError when the provider is down after its own retries."""

    @property
    def version(self) -> str:
        """Changes when equal calls may give other results; part of every cache key."""
        ...

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        """At most `k` pages, best first."""
        ...


class ImageSearch(Protocol):
    """Finds images. Raises ToolError when the provider is down after its own retries."""

    @property
    def version(self) -> str: ...

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        """At most `k` images whose bytes are in the image store."""
        ...


class PageReader(Protocol):
    """Reads a page. Raises ToolError when the provider is down after its own retries."""

    @property
    def version(self) -> str: ...

    async def page(self, url: str) -> Fetched[Page | None]:
        """None: there is no such page, or `url` is not one that may be read."""
        ...


class SearchProvider(TextSearch, ImageSearch, PageReader, Protocol):
    """One source for all three."""


class Summariser(Protocol):
    """Answers a question from a page. Raises ToolError when no answer came."""

    @property
    def version(self) -> str: ...

    async def answer(self, page: Page, *, query: str) -> Fetched[str]: ...
