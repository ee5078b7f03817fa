"""Tavily: https://docs.tavily.com. Its images come with a search and say no page of their own."""

from pydantic import BaseModel

from core.endpoint import HttpRequest
from envs.provider import Fetched, SearchHit
from envs.providers.downloads import ImageCandidate
from envs.providers.service import Service

MAX_RESULTS = 20


class _Result(BaseModel):
    url: str
    title: str | None = None
    content: str | None = None


class _Image(BaseModel):
    url: str
    description: str | None = None


class _Reply(BaseModel):
    results: list[_Result] | None
    """Required, though it may be null: an error has none."""
    images: list[str | _Image] | None = None


class Tavily:
    """Implements envs.provider.TextSearch and envs.providers.downloads.CandidateSearch."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def version(self) -> str:
        return self._service.name

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        reply = await self._service.ask(self._request(query, num=k, images=False), _Reply)
        hits = tuple(
            SearchHit(url=hit.url, title=hit.title or "", snippet=hit.content or "")
            for hit in (reply.results or [])[:k]
        )
        return self._service.fetched(hits)

    async def candidates(self, query: str, *, num: int) -> Fetched[tuple[ImageCandidate, ...]]:
        """As many as the service has: it takes no number of images."""
        reply = await self._service.ask(self._request(query, num=num, images=True), _Reply)
        found = tuple(
            ImageCandidate(url=image, title="", page_url="")
            if isinstance(image, str)
            else ImageCandidate(url=image.url, title=image.description or "", page_url="")
            for image in reply.images or []
        )
        return self._service.fetched(found)

    def _request(self, query: str, *, num: int, images: bool) -> HttpRequest:
        body = {
            "query": query,
            "search_depth": "basic",
            "max_results": min(MAX_RESULTS, num),
            "include_images": images,
            "include_image_descriptions": images,
        }
        headers = {"Authorization": f"Bearer {self._service.api_key}"}
        return self._service.post("/search", body, headers=headers)
