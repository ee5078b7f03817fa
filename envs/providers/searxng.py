"""SearXNG, a metasearch engine of one's own: https://docs.searxng.org. Needs no key.

Its settings.yml must list `json` under `search.formats`, or it answers 403. It takes no number of
results.
"""

from pydantic import BaseModel

from core.endpoint import HttpRequest
from core.errors import ToolError
from envs.provider import Fetched, SearchHit
from envs.providers.downloads import ImageCandidate
from envs.providers.service import Service


class _Result(BaseModel):
    url: str | None = None
    """Some kinds of result have none, and are none to us."""
    title: str | None = None
    content: str | None = None
    img_src: str | None = None
    """May lack its scheme (`//host/a.jpg`), or be a data: URL."""


class _Reply(BaseModel):
    results: list[_Result] | None
    """Required, though it may be null: an error has none."""
    unresponsive_engines: list[list[str]] | None = None


class Searxng:
    """Implements envs.provider.TextSearch and envs.providers.downloads.CandidateSearch."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def version(self) -> str:
        return self._service.name

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        found = await self._ask(query, category="general")
        hits = tuple(
            SearchHit(url=hit.url, title=hit.title or "", snippet=hit.content or "")
            for hit in found
            if hit.url
        )
        return self._service.fetched(hits[:k])

    async def candidates(self, query: str, *, num: int) -> Fetched[tuple[ImageCandidate, ...]]:
        found = await self._ask(query, category="images")
        images = tuple(
            ImageCandidate(url=image.img_src, title=image.title or "", page_url=image.url or "")
            for image in found
            if image.img_src
        )
        return self._service.fetched(images[:num])

    async def _ask(self, query: str, *, category: str) -> list[_Result]:
        """Raises ToolError when nothing was found and engines did not answer: it is no result."""
        reply = await self._service.ask(self._request(query, category), _Reply)
        if not reply.results and reply.unresponsive_engines:
            silent = ", ".join(" ".join(engine) for engine in reply.unresponsive_engines)[:200]
            raise ToolError(f"{self._service.name}: no answer from {silent}", retryable=True)
        return reply.results or []

    def _request(self, query: str, category: str) -> HttpRequest:
        parameters = {"q": query, "format": "json", "categories": category}
        return self._service.get("/search", parameters, headers=None)
