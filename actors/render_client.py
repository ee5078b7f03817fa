"""The image model as everyone else sees it: cache, coalescing and retries before remote painters.

In: `RenderRequest`s. Out: `RenderedImage`s whose bytes are in the image store. A render is a pure
function of its request, so a finished one is kept by content, and N equal requests in flight make
one. Raises `RenderError`: at once for a request that the model cannot take, for a reference whose
bytes are gone, and for what the painter itself gave up on; when `BUDGET` is used up for replicas
that die or do not answer. So a lost replica is retried here and nowhere below, and an API's faults
are retried below (actors/api_painter.py) and not here.
"""

import asyncio
import itertools
import json
import logging
import sqlite3
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from actors.image_models import check_references
from core.errors import ConfigError, DataError, InfraError, RenderError, boundary
from core.failure_policy import Action, Budget, Event, Fault, Part, decide
from core.places import Places, Urgency
from core.protocols import ImageStore
from core.records import ImageRef, RenderedImage, RenderRequest, to_jsonable
from envs.references import keep_first_references

logger = logging.getLogger(__name__)

BUDGET: Final = Budget(times=3, seconds=60.0)
BACKOFF_S: Final = 0.5
"""Wait before the second try; doubled for each further one, up to `MAX_BACKOFF_S`."""
MAX_BACKOFF_S: Final = 5.0
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    data: bytes
    """PNG, JPEG or WebP."""
    cost_usd: float = 0.0


class RemotePainter(Protocol):
    @property
    def spent_usd(self) -> float:
        """For all pictures so far, also those that never arrived."""
        ...

    async def paint(self, request: RenderRequest, *, references: tuple[bytes, ...]) -> Painted:
        """Raises RenderError when the model gave up, InfraError when it was lost."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderCounters:
    """Since the client was made."""

    hits: int = 0
    coalesced: int = 0
    painted: int = 0
    retries: int = 0


class RenderCache:
    """Request key -> image reference, in a SQLite file that lives beside the image store."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Opened on the thread that sets up, used on the controller's.
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            raise ConfigError(
                f"{path} cannot be used as a render cache ({error}); delete the file"
            ) from error

    def get(self, key: str) -> ImageRef | None:
        with boundary(RenderError, "reading the render cache"):
            query = "SELECT image FROM renders WHERE key = ?"
            row = self._db.execute(query, (key,)).fetchone()
        return None if row is None else ImageRef(**json.loads(row[0]))

    def put(self, key: str, image: ImageRef) -> None:
        with boundary(RenderError, "writing the render cache"):
            row = (key, json.dumps(to_jsonable(image)))
            self._db.execute("INSERT OR REPLACE INTO renders VALUES (?, ?)", row)

    def close(self) -> None:
        self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if schema != SCHEMA_VERSION:
            self._db.execute("DROP TABLE IF EXISTS renders")
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS renders (key TEXT PRIMARY KEY, image TEXT NOT NULL)"
        )


class RenderClient:
    """Implements core.protocols.ImageModel around a `RemotePainter`."""

    def __init__(
        self,
        painter: RemotePainter,
        *,
        name: str,
        max_references: int,
        store: ImageStore,
        cache: RenderCache,
        max_in_flight: int,
        timeout_s: float,
        renumber: bool = False,
        backoff_s: float = BACKOFF_S,
        budget: Budget = BUDGET,
    ) -> None:
        """`timeout_s` bounds each try, the start of a cold replica included; waiting for one of
        the `max_in_flight` places does not count. `renumber`: of too many references the first
        are kept, and the prompt follows; else such a request is refused."""
        self._painter = painter
        self._name = name
        self._max_references = max_references
        self._store = store
        self._cache = cache
        self._places = Places(max_in_flight)
        self._timeout_s = timeout_s
        self._renumber = renumber
        self._backoff_s = backoff_s
        self._budget = budget
        self._in_flight: dict[str, asyncio.Task[RenderedImage]] = {}
        self.counters = RenderCounters()

    @property
    def name(self) -> str:
        return self._name

    @property
    def max_references(self) -> int:
        return self._max_references

    @property
    def spent_usd(self) -> float:
        return self._painter.spent_usd

    async def render(self, request: RenderRequest, *, urgency: Urgency = ()) -> RenderedImage:
        """The picture, from the cache or drawn. A render goes on when its caller gives up."""
        if not self._renumber:
            check_references(request, max_references=self._max_references)
        dropped = max(0, len(request.references) - self._max_references)
        if dropped:
            request = keep_first(request, self._max_references)
            logger.info("render=%s leaves out %d references", request.key[:12], dropped)
        rendered = await self._render(request, urgency)
        return replace(rendered, dropped_references=dropped) if dropped else rendered

    async def _render(self, request: RenderRequest, urgency: Urgency) -> RenderedImage:
        kept = self._kept(request)
        if kept is not None:
            self._count(hits=1)
            return RenderedImage(image=kept, request=request, seconds=0.0, cached=True)
        key = request.key
        task = self._in_flight.get(key)
        if task is not None:
            self._count(coalesced=1)
            return replace(await asyncio.shield(task), cached=True, cost_usd=0.0)
        task = asyncio.create_task(self._draw(request, urgency))
        self._in_flight[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _kept(self, request: RenderRequest) -> ImageRef | None:
        """A kept picture whose bytes the store still has."""
        image = self._cache.get(request.key)
        if image is None:
            return None
        try:
            self._store.get(image)
        except InfraError:
            logger.info("render=%s is cached, but its image is gone", request.key[:12])
            return None
        return image

    async def _draw(self, request: RenderRequest, urgency: Urgency) -> RenderedImage:
        references = tuple(self._bytes_of(reference) for reference in request.references)
        started = time.perf_counter()
        painted = await self._paint(request, references, urgency)
        try:
            image = await asyncio.to_thread(self._store.put, painted.data)
        except DataError as error:
            raise RenderError(f"the image model drew no image: {error}") from error
        self._cache.put(request.key, image)
        self._count(painted=1)
        return RenderedImage(
            image=image,
            request=request,
            seconds=time.perf_counter() - started,
            cached=False,
            cost_usd=painted.cost_usd,
        )

    def _bytes_of(self, reference: ImageRef) -> bytes:
        try:
            return self._store.get(reference)
        except InfraError as error:
            raise RenderError(
                f"a reference image cannot be read: {error}",
                retryable=error.retryable,
                error_type="MissingReference",
            ) from error

    async def _paint(
        self, request: RenderRequest, references: tuple[bytes, ...], urgency: Urgency
    ) -> Painted:
        """Ask until a replica answers; a lost one is no reason to give up, a raising one is."""
        wait_s, started_s = self._backoff_s, time.monotonic()
        for tries in itertools.count(1):
            try:
                async with self._places.place(urgency), asyncio.timeout(self._timeout_s):
                    return await self._painter.paint(request, references=references)
            except (InfraError, TimeoutError) as error:
                reason = str(error) or f"no picture within {self._timeout_s:g} s"
                logger.warning("render=%s try=%d: %s", request.key[:12], tries, reason)
            lost_s = time.monotonic() - started_s
            lost = Event(part=Part.RENDER, fault=Fault.LOST, times=tries, seconds=lost_s)
            if decide(lost, budget=self._budget) is not Action.RETRY:
                break
            self._count(retries=1)
            await asyncio.sleep(wait_s)
            wait_s = min(MAX_BACKOFF_S, 2 * wait_s)
        raise RenderError(f"no picture after {tries} tries; last: {reason}")

    def _forget(self, key: str, done: asyncio.Task[RenderedImage]) -> None:
        del self._in_flight[key]
        if not done.cancelled():
            done.exception()  # every caller may have gone; then nobody else asks for it

    def _count(self, **more: float) -> None:
        values = {name: getattr(self.counters, name) + number for name, number in more.items()}
        self.counters = replace(self.counters, **values)


def keep_first(request: RenderRequest, count: int) -> RenderRequest:
    """The request with its first `count` references, and a prompt that points at no other."""
    prompt = keep_first_references(request.prompt, total=len(request.references), kept=count)
    return replace(request, prompt=prompt, references=request.references[:count])
