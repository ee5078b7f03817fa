"""Serper (Google's results as JSON): https://serper.dev. An error may come with status 200."""

from pydantic import BaseModel, Field

from core.endpoint import HttpRequest
from envs.provider import Fetched, SearchHit
from envs.providers.downloads import ImageCandidate
from envs.providers.service import Service

MAX_RESULTS_PER_CREDIT = 10
MAX_RESULTS = 100


class _Organic(BaseModel):
    link: str
    title: str | None = None
    snippet: str | None = None


class _SearchReply(BaseModel):
    organic: list[_Organic] | None
    """Required, though it may be null: an error has none."""
    credits: float | None = Field(None, ge=0)


class _Image(BaseModel):
    imageUrl: str
    title: str | None = None
    link: str | None = None


class _ImagesReply(BaseModel):
    images: list[_Image] | None
    credits: float | None = Field(None, ge=0)


class Serper:
    """Implements envs.provider.TextSearch and envs.providers.downloads.CandidateSearch."""

    def __init__(self, service: Service) -> None:
        """`service.cost_usd` is the price of one credit; a reply says how many it took."""
        self._service = service

    @property
    def version(self) -> str:
        return self._service.name

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        reply = await self._service.ask(self._request("/search", query, num=k), _SearchReply)
        hits = tuple(
            SearchHit(url=hit.link, title=hit.title or "", snippet=hit.snippet or "")
            for hit in (reply.organic or [])[:k]
        )
        return self._service.fetched(hits, units=_credits(reply.credits))

    async def candidates(self, query: str, *, num: int) -> Fetched[tuple[ImageCandidate, ...]]:
        reply = await self._service.ask(self._request("/images", query, num=num), _ImagesReply)
        found = tuple(
            ImageCandidate(url=image.imageUrl, title=image.title or "", page_url=image.link or "")
            for image in reply.images or []
        )
        return self._service.fetched(found, units=_credits(reply.credits))

    def _request(self, path: str, query: str, *, num: int) -> HttpRequest:
        """More results than a credit pays for cost a second one, and so do fewer than ten not."""
        body = {"q": query, "num": min(MAX_RESULTS, max(MAX_RESULTS_PER_CREDIT, num))}
        return self._service.post(path, body, headers={"X-API-KEY": self._service.api_key})


def _credits(credits: float | None) -> float:
    return 1.0 if credits is None else credits
