"""Brave Search: https://api.search.brave.com. A reply without `web` has no pages."""

from typing import Literal

from pydantic import BaseModel

from core.endpoint import HttpRequest
from envs.provider import Fetched, SearchHit
from envs.providers.downloads import ImageCandidate
from envs.providers.service import Service

MAX_QUERY_CHARS = 400
MAX_QUERY_WORDS = 50
"""Longer queries are refused by the service with status 422."""
MAX_PAGES = 20
MAX_IMAGES = 200


class _Page(BaseModel):
    url: str
    title: str | None = None
    description: str | None = None


class _Web(BaseModel):
    results: list[_Page] | None = None


class _SearchReply(BaseModel):
    type: Literal["search"]
    web: _Web | None = None


class _Properties(BaseModel):
    url: str | None = None


class _Image(BaseModel):
    title: str | None = None
    url: str | None = None
    """Of the page."""
    properties: _Properties | None = None


class _ImagesReply(BaseModel):
    type: Literal["images"]
    results: list[_Image] | None = None


class Brave:
    """Implements envs.provider.TextSearch and envs.providers.downloads.CandidateSearch."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def version(self) -> str:
        return self._service.name

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        request = self._request("/res/v1/web/search", query, count=min(MAX_PAGES, k))
        web = (await self._service.ask(request, _SearchReply)).web
        found = (web.results if web else None) or []
        hits = tuple(
            SearchHit(url=page.url, title=page.title or "", snippet=page.description or "")
            for page in found[:k]
        )
        return self._service.fetched(hits)

    async def candidates(self, query: str, *, num: int) -> Fetched[tuple[ImageCandidate, ...]]:
        request = self._request("/res/v1/images/search", query, count=min(MAX_IMAGES, num))
        reply = await self._service.ask(request, _ImagesReply)
        found = tuple(
            ImageCandidate(
                url=image.properties.url, title=image.title or "", page_url=image.url or ""
            )
            for image in reply.results or []
            if image.properties and image.properties.url
        )
        return self._service.fetched(found)

    def _request(self, path: str, query: str, *, count: int) -> HttpRequest:
        short = " ".join(query[:MAX_QUERY_CHARS].split()[:MAX_QUERY_WORDS])
        parameters: dict[str, str | int] = {"q": short, "count": count}
        if path.endswith("/web/search"):
            parameters["text_decorations"] = "false"  # no <strong> around the words found
        headers = {"X-Subscription-Token": self._service.api_key, "Accept": "application/json"}
        return self._service.get(path, parameters, headers=headers)
