"""Live search on the web: Serper for pages and images, Jina's reader for the text of a page.

In: queries and URLs that the policy wrote; they travel as JSON values only. Out: the records of
envs.provider; found images are downloaded, sniffed and put into the image store. Raises ToolError
after `MAX_TRIES`, or at once where trying again cannot help.
"""

import asyncio
import json
import logging
import random
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from core.errors import DataError, ToolError
from core.protocols import HttpClient, HttpResponse, ImageStore
from core.records import FoundImage
from envs.provider import Fetched, Page, SearchHit

logger = logging.getLogger(__name__)

SEARCH_URL = "https://google.serper.dev/search"
IMAGES_URL = "https://google.serper.dev/images"
READER_URL = "https://r.jina.ai/"
MAX_TRIES = 3
PAUSE_S = 1.0
"""Before the second try; doubled for the third."""
MAX_PAUSE_S = 8.0
REPLY_BYTES = 4 << 20
IMAGE_BYTES = 16 << 20
IMAGE_TIMEOUT_S = 10.0
MIN_IMAGE_SIDE = 64
"""Icons and tracking pixels are no references."""
SPARE_IMAGES = 2
"""Candidates asked for per image wanted; downloads often fail."""
UNREADABLE_PAGE = frozenset({400, 404, 410, 422, 451})
"""Statuses by which the reader says that it is the page's fault."""


class _Organic(BaseModel):
    link: str
    title: str | None = None
    snippet: str | None = None


class _SearchReply(BaseModel):
    organic: list[_Organic] | None
    """Required, though it may be null: errors come with status 200 as well."""


class _Image(BaseModel):
    imageUrl: str
    title: str | None = None
    link: str | None = None


class _ImagesReply(BaseModel):
    images: list[_Image] | None


class _PageData(BaseModel):
    title: str | None = None
    url: str | None = None
    content: str | None = None


class _PageReply(BaseModel):
    data: _PageData


_Reply = TypeVar("_Reply", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class SerperProvider:
    """Implements envs.provider.SearchProvider."""

    http: HttpClient
    """Must refuse private addresses: images are downloaded from wherever a result points."""
    images: ImageStore
    serper_key: str = field(repr=False)
    jina_key: str = field(default="", repr=False)
    """Empty: the reader works without one, at a low rate."""
    timeout_s: float = 20.0
    """Of one try."""
    pause_s: float = PAUSE_S

    @property
    def version(self) -> str:
        return "serper-1"

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        response = await self._serper(SEARCH_URL, query, num=k)
        found = _parse(response, _SearchReply).organic or []
        hits = tuple(
            SearchHit(url=hit.link, title=hit.title or "", snippet=hit.snippet or "")
            for hit in found[:k]
        )
        return Fetched(value=hits, provider="serper", upstream_calls=1)

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        """Downloads side by side; one that fails is replaced by the next candidate.

        Raises ToolError when no candidate's host was reached: the fault is then likely ours, and
        "nothing found" would be kept as the answer to this query.
        """
        response = await self._serper(IMAGES_URL, query, num=k * (1 + SPARE_IMAGES))
        candidates = _parse(response, _ImagesReply).images or []
        num_candidates = len(candidates)
        good: list[FoundImage] = []
        unreached: list[ToolError] = []
        while candidates and len(good) < k:
            wanted = k - len(good)
            batch, candidates = candidates[:wanted], candidates[wanted:]
            downloads = await asyncio.gather(*(self._download(image) for image in batch))
            good += [image for image in downloads if isinstance(image, FoundImage)]
            unreached += [error for error in downloads if isinstance(error, ToolError)]
        if unreached and len(unreached) == num_candidates:
            raise unreached[-1]
        return Fetched(value=tuple(good), provider="serper", upstream_calls=1)

    async def page(self, url: str) -> Fetched[Page | None]:
        if not _is_web_page(url):
            return Fetched(value=None, provider="jina")
        headers = {"Accept": "application/json"}
        if self.jina_key:
            headers["Authorization"] = f"Bearer {self.jina_key}"
        response = await self._post(
            READER_URL, {"url": url}, headers=headers, expected=UNREADABLE_PAGE | {200}
        )
        page = None
        if response.status == 200:
            data = _parse(response, _PageReply).data
            page = Page(url=url, title=data.title or "", text=data.content or "")
        return Fetched(value=page, provider="jina", upstream_calls=1)

    async def _serper(self, url: str, query: str, *, num: int) -> HttpResponse:
        return await self._post(
            url, {"q": query, "num": num}, headers={"X-API-KEY": self.serper_key}
        )

    async def _post(
        self,
        url: str,
        body: dict[str, Any],
        *,
        headers: dict[str, str],
        expected: frozenset[int] = frozenset({200}),
    ) -> HttpResponse:
        """A response of an expected status. Raises ToolError when MAX_TRIES brought none."""
        last = ToolError("never asked")
        for attempt in range(MAX_TRIES):
            pause_s = self.pause_s * 2**attempt
            try:
                response = await self.http.request(
                    "POST",
                    url,
                    headers=headers,
                    json_body=body,
                    timeout_s=self.timeout_s,
                    max_bytes=REPLY_BYTES,
                )
                if response.status in expected:
                    return response
                last = _refusal(url, response)
                pause_s = max(pause_s, _retry_after_s(response))
            except ToolError as error:
                last = error
            if not last.retryable or attempt == MAX_TRIES - 1:
                break
            await asyncio.sleep(min(MAX_PAUSE_S, pause_s) * random.uniform(0.75, 1.25))
        raise last

    async def _download(self, image: _Image) -> FoundImage | ToolError | None:
        """None when there is no usable image at that address, ToolError when no response came."""
        try:
            response = await self.http.request(
                "GET", image.imageUrl, timeout_s=IMAGE_TIMEOUT_S, max_bytes=IMAGE_BYTES
            )
        except ToolError as error:
            logger.info("image skipped: %s", error)
            return error if error.retryable else None
        try:
            if response.status != 200:
                raise ToolError(f"HTTP {response.status}")
            # Decoding and writing take long enough to be kept off the event loop.
            ref = await asyncio.to_thread(self.images.put, response.body)
        except (ToolError, DataError) as error:
            logger.info("image skipped: %s", error)
            return None
        if min(ref.width, ref.height) < MIN_IMAGE_SIDE:
            return None
        return FoundImage(ref=ref, title=image.title or "", page_url=image.link or "")


def _is_web_page(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    plain = url.isprintable() and " " not in url and "@" not in parts.netloc
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _parse(response: HttpResponse, kind: type[_Reply]) -> _Reply:
    try:
        return kind.model_validate_json(response.body)
    except ValidationError as error:
        detail = response.body[:200].decode(errors="replace")
        raise ToolError(f"not the reply of {kind.__name__[1:]}: {detail!r}") from error


def _refusal(url: str, response: HttpResponse) -> ToolError:
    retryable = response.status == 429 or response.status >= 500
    try:
        detail = str(json.loads(response.body)["message"])
    except (ValueError, LookupError, TypeError):
        detail = response.body.decode(errors="replace")
    host = urlsplit(url).hostname
    return ToolError(f"{host} answered HTTP {response.status}: {detail[:200]}", retryable=retryable)


def _retry_after_s(response: HttpResponse) -> float:
    """The provider's wish in seconds; dates and nonsense are 0."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
