"""SerpAPI (Google's results as JSON): https://serpapi.com. The key travels in the query string.

"No results" comes as an error text with status 200, and so does a real error.
"""

from pydantic import BaseModel

from core.endpoint import HttpRequest
from core.errors import ToolError
from envs.provider import Fetched, SearchHit
from envs.providers.downloads import ImageCandidate
from envs.providers.service import Service

NO_RESULTS = "hasn't returned any results"


class _Organic(BaseModel):
    link: str
    title: str | None = None
    snippet: str | None = None


class _Image(BaseModel):
    original: str | None = None
    title: str | None = None
    link: str | None = None


class _Reply(BaseModel):
    error: str | None = None
    organic_results: list[_Organic] | None = None
    images_results: list[_Image] | None = None


class SerpApi:
    """Implements envs.provider.TextSearch and envs.providers.downloads.CandidateSearch."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def version(self) -> str:
        return self._service.name

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        reply = await self._ask("google", query, field="organic_results")
        hits = tuple(
            SearchHit(url=hit.link, title=hit.title or "", snippet=hit.snippet or "")
            for hit in (reply.organic_results or [])[:k]
        )
        return self._service.fetched(hits)

    async def candidates(self, query: str, *, num: int) -> Fetched[tuple[ImageCandidate, ...]]:
        reply = await self._ask("google_images", query, field="images_results")
        found = tuple(
            ImageCandidate(url=image.original, title=image.title or "", page_url=image.link or "")
            for image in reply.images_results or []
            if image.original
        )
        return self._service.fetched(found[:num])

    async def _ask(self, engine: str, query: str, *, field: str) -> _Reply:
        """Raises ToolError, also for a well-formed reply that has not even an empty `field`."""
        reply = await self._service.ask(self._request(engine, query), _Reply)
        empty = reply.error is not None and NO_RESULTS in reply.error
        if field not in reply.model_fields_set and not empty:
            said = (reply.error or f"a reply without {field}")[:200]
            raise ToolError(f"{self._service.name} sent {said}", retryable=False)
        return reply

    def _request(self, engine: str, query: str) -> HttpRequest:
        parameters = {"engine": engine, "q": query, "api_key": self._service.api_key}
        return self._service.get("/search.json", parameters, headers=None)
