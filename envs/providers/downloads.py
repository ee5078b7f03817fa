"""Image candidates become images in the store: downloaded side by side, failed ones replaced.

In: candidates in order, whose addresses strangers chose. Out: up to k images, in the order of the
candidates, none twice. A download that fails, is no raster image, or is an icon makes room for the
next candidate. At the deadline, what is there is the result. Raises ToolError when not one host was
reached, and none by other searches either: the fault is then likely ours, and "nothing found" would
be kept as an answer.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from core.errors import DataError, ToolError
from core.protocols import HttpClient, ImageStore
from core.records import FoundImage, ImageRef
from envs.images import clean_image
from envs.provider import Fetched
from envs.providers.network import Network
from envs.providers.service import is_web_page

logger = logging.getLogger(__name__)

CANDIDATES_PER_IMAGE = 2
"""Asked for per image wanted; downloads often fail."""
DECODERS = 4
"""Images that one process decodes at once: a file of 113 KiB may unfold to more than 1 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCandidate:
    """An image that a search names and nobody has looked at yet. All of it is untrusted text."""

    url: str
    """May lack its scheme, or be a data: URL."""
    title: str
    page_url: str
    """"" if the service does not say it."""


class CandidateSearch(Protocol):
    """The half of an image search that the service does."""

    @property
    def version(self) -> str: ...

    async def candidates(self, query: str, *, num: int) -> Fetched[tuple[ImageCandidate, ...]]:
        """About `num`, best first. Raises ToolError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    timeout_s: float = 8.0
    """Of one download."""
    deadline_s: float = 13.0
    """Of all downloads of one search."""
    max_bytes: int = 16 << 20
    max_in_flight: int = 32
    """Over all searches."""
    min_side: int = 64
    """Pixels; icons and tracking pixels are no references."""


class ImageDownloader:
    """Shared by all image searches of a process, so that its limit holds for all of them."""

    def __init__(
        self,
        http: HttpClient,
        store: ImageStore,
        *,
        limits: DownloadLimits,
        count: Callable[[str], None] = lambda name: None,
        network: Network | None = None,
    ) -> None:
        """`http` must refuse private addresses: candidates point wherever they like. `count` is
        told of every "skipped_images/WHY"."""
        self._http = http
        self._network = network or Network()
        self._store = store
        self._limits = limits
        self._places = asyncio.Semaphore(limits.max_in_flight)
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="images")
        self._count = count

    async def gather(
        self, candidates: Sequence[ImageCandidate], *, k: int
    ) -> tuple[FoundImage, ...]:
        """Raises ToolError when no candidate's host was reached."""
        batch = _Batch(candidates)
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                while batch.start(self._download, k=k):
                    await batch.wait()
        except TimeoutError:
            logger.info("%d of %d images came in time", len(batch.good), k)
        finally:
            await batch.cancel()
        nobody_answered = not batch.good and batch.started and not batch.reached
        if nobody_answered and not self._network.is_there:
            raise ToolError(
                f"none of the {batch.started} image hosts asked was reached: {batch.last}"
            ) from batch.last
        return tuple(batch.good[number] for number in sorted(batch.good))

    async def _download(self, candidate: ImageCandidate) -> FoundImage | None:
        """None: no usable image is there. Raises ToolError when no response came."""
        try:
            data = await self._read(candidate)
            # Decoding and writing take long enough to be kept off the event loop.
            loop = asyncio.get_running_loop()
            ref = await loop.run_in_executor(self._decoders, self._keep, data)
        except DataError as error:
            self._skip("not an image", error)
            return None
        except ToolError as error:
            self._skip(error.error_type, error)
            if error.retryable:
                raise
            return None
        if min(ref.width, ref.height) < self._limits.min_side:
            self._skip("too small", f"{ref.width} x {ref.height} pixels")
            return None
        return FoundImage(ref=ref, title=candidate.title, page_url=candidate.page_url)

    def _keep(self, data: bytes) -> ImageRef:
        return self._store.put(clean_image(data))

    async def _read(self, candidate: ImageCandidate) -> bytes:
        """Raises DataError and ToolError; a retryable one means that the host was not reached."""
        url = candidate.url
        if url.startswith("data:"):
            return _inline(url, max_bytes=self._limits.max_bytes)
        if url.startswith("//"):
            scheme = "http" if candidate.page_url.startswith("http:") else "https"
            url = f"{scheme}:{url}"  # as a browser reads it on that page
        if not is_web_page(url):
            raise ToolError("not the address of an image", retryable=False, error_type="bad url")
        async with self._places:
            response = await self._http.request(
                "GET", url, timeout_s=self._limits.timeout_s, max_bytes=self._limits.max_bytes
            )
        self._network.has_answered()
        if response.status != 200:
            kind = f"HTTP {response.status}"
            raise ToolError(f"the host answered {kind}", retryable=False, error_type=kind)
        return response.body

    def _skip(self, kind: str, why: object) -> None:
        self._count(f"skipped_images/{kind}")
        logger.info("image skipped: %s", why)


class _Batch:
    """The downloads of one search; no more run than images are still wanted."""

    def __init__(self, candidates: Sequence[ImageCandidate]) -> None:
        unique = {candidate.url: candidate for candidate in reversed(candidates)}
        self._left = list(enumerate(reversed(unique.values())))[::-1]
        self._running: dict[asyncio.Task[FoundImage | None], int] = {}
        self.good: dict[int, FoundImage] = {}
        self.started = 0
        self.reached = False
        self.last: ToolError | None = None

    def start(self, download: "_Download", *, k: int) -> bool:
        """Start as many as are wanted; false when nothing is left to wait for."""
        while self._left and len(self.good) + len(self._running) < k:
            number, candidate = self._left.pop()
            self._running[asyncio.ensure_future(download(candidate))] = number
            self.started += 1
        return bool(self._running)

    async def wait(self) -> None:
        """Until at least one download is over."""
        done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self._take(self._running.pop(task), task)

    async def cancel(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _take(self, number: int, task: asyncio.Task[FoundImage | None]) -> None:
        try:
            image = task.result()
        except ToolError as error:
            self.last = error
            return
        self.reached = True
        known = {other.ref.sha256 for other in self.good.values()}
        if image is not None and image.ref.sha256 not in known:
            self.good[number] = image


class _Download(Protocol):
    async def __call__(self, candidate: ImageCandidate) -> FoundImage | None: ...


class WebImages:
    """Implements envs.provider.ImageSearch: candidates of a service, downloaded."""

    def __init__(self, source: CandidateSearch, downloader: ImageDownloader) -> None:
        self._source = source
        self._downloader = downloader

    @property
    def version(self) -> str:
        return self._source.version

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        named = await self._source.candidates(query, num=k * CANDIDATES_PER_IMAGE)
        images = await self._downloader.gather(named.value, k=k)
        return Fetched(
            value=images,
            provider=named.provider,
            upstream_calls=named.upstream_calls,
            cost_usd=named.cost_usd,
        )


def _inline(url: str, *, max_bytes: int) -> bytes:
    """The bytes of `data:image/png;base64,...`. Raises DataError."""
    head, _, body = url.partition(",")
    if not head.endswith(";base64") or len(body) > max_bytes * 4 // 3:
        raise DataError("a data: URL that is not base64, or too long")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("a data: URL whose base64 is broken") from error
