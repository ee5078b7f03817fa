"""Operations answered from the store, else by their provider: once for all who ask.

    live    what has expired is fetched again; failures are not kept
    record  nothing expires, failures are kept too: what is replayed is what was seen
    replay  no provider is asked, nothing is written; a miss is what `on_miss` says

In: an operation and a coroutine that fetches it. Out: `Fetched`, marked as cached where it is. N
equal operations in flight make one fetch, over all processes that share the store; whoever dies
while fetching blocks nobody. Raises ToolError: the provider failed, or there is nothing to replay.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from core.errors import ToolError, boundary
from core.protocols import ImageStore
from core.records import ImageRef
from envs.provider import Fetched
from envs.store.eviction import evict
from envs.store.images import StoreImages
from envs.store.store import DamagedError, Entry, Store
from envs.store.tallies import Tallies
from envs.store.values import Kind, Operation, State, canonical_json, encode, nothing

Mode = Literal["live", "record", "replay"]
OnMiss = Literal["fail", "empty", "nearest"]
Fetch = Callable[[], Awaitable[Fetched[Any]]]

NEVER = float("inf")
ROUNDS_PER_CAP = 64
"""The cap is looked at each time that a 64th of it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ages:
    """Seconds after which an answer is asked for again."""

    found: Mapping[Kind, float]
    nothing: float
    """Of "nothing found" and "no such page", whatever the kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hot:
    """An entry in memory."""

    fetched: Fetched[Any]
    entry_key: str
    size: int
    expires_s: float


class ReadThrough:
    """Belongs to the event loop that it is first used on."""

    def __init__(
        self,
        store: Store,
        *,
        tallies: Tallies,
        mode: Mode = "live",
        on_miss: OnMiss = "fail",
        ages: Ages | None = None,
        max_bytes: int | None = None,
        timeout_s: float = 30.0,
        run_images: ImageStore | None = None,
        hot_bytes: int = 64 << 20,
    ) -> None:
        """`timeout_s` bounds one fetch. `run_images`: where local corpora keep their images, and
        where the run reads images, if that is not the store's folder."""
        self._store = store
        self._images = StoreImages(store)
        self._run_images = run_images
        self._tallies = tallies
        self._mode = mode
        self._on_miss = on_miss
        self._ages = ages
        self._max_bytes = max_bytes if mode == "live" else None
        self._timeout_s = timeout_s
        self._in_flight: dict[tuple[str, ...], asyncio.Task[_Hot]] = {}
        self._hot: OrderedDict[tuple[str, ...], _Hot] = OrderedDict()
        self._hot_bytes = self._max_hot_bytes = 0
        self._max_hot_bytes = hot_bytes
        self._used: dict[str, float] = {}
        self._unchecked_bytes = 0

    async def get(
        self, kind: Kind, arguments: Mapping[str, Any], *, version: str, fetch: Fetch | None
    ) -> Fetched[Any]:
        """The answer. Only a replay has no `fetch`."""
        hot_key = (kind, canonical_json(arguments), version)
        hot = self._from_memory(hot_key)
        if hot is not None:
            self._tallies.add("hits")
            return hot.fetched
        task = self._in_flight.get(hot_key)
        if task is not None:
            self._tallies.add("coalesced")
            return _cached((await asyncio.shield(task)).fetched)
        operation = Operation(kind=kind, arguments=hot_key[1], version=version)
        task = asyncio.create_task(self._load(operation, fetch))
        self._in_flight[hot_key] = task
        task.add_done_callback(lambda done: self._landed(hot_key, done))
        return (await asyncio.shield(task)).fetched

    def forget(self) -> None:
        """Drop what is in memory: the disk knows better."""
        self._hot.clear()
        self._hot_bytes = 0

    def flush(self) -> None:
        """Write down what was used when; for a thread."""
        used, self._used = self._used, {}
        if self._mode == "live":
            self._store.touch(used)

    # -- memory ---------------------------------------------------------------------------------

    def _from_memory(self, hot_key: tuple[str, ...]) -> _Hot | None:
        hot = self._hot.get(hot_key)
        if hot is None:
            return None
        now = self._store.now()
        if now >= hot.expires_s:
            return None
        self._hot.move_to_end(hot_key)
        self._used[hot.entry_key] = now
        return hot

    def _landed(self, hot_key: tuple[str, ...], done: asyncio.Task[_Hot]) -> None:
        del self._in_flight[hot_key]
        if done.cancelled() or done.exception():  # asking for it: every caller may have gone
            return
        hot = done.result()
        if hot.fetched.stand_in is not None or not hot.entry_key:
            return  # each of them is counted as a miss
        before = self._hot.pop(hot_key, None)
        self._hot[hot_key] = replace(hot, fetched=_cached(hot.fetched))
        self._hot_bytes += hot.size - (before.size if before else 0)
        while self._hot_bytes > self._max_hot_bytes:
            _, dropped = self._hot.popitem(last=False)
            self._hot_bytes -= dropped.size

    # -- disk, then provider --------------------------------------------------------------------

    async def _load(self, operation: Operation, fetch: Fetch | None) -> _Hot:
        if self._mode == "replay":
            return await self._replay(operation)
        hot = await self._kept(operation)
        if hot is not None:
            self._tallies.add("hits")
            return hot
        assert fetch is not None, "only a replay has nobody to ask"
        async with self._store.locks.fetching(operation.key) as waited:
            hot = await self._kept(operation) if waited else None
            if hot is not None:
                self._tallies.add("coalesced")
                return hot
            return await self._fetch(operation, fetch)

    async def _kept(self, operation: Operation) -> _Hot | None:
        try:
            entry = await self._read(self._store.read, operation)
        except DamagedError:
            self._tallies.add("damaged")
            return None
        if entry is None or entry.state is State.ERROR:
            return None
        expires_s = self._expires_s(entry.kind, entry.state, entry.created_s)
        if self._store.now() >= expires_s:
            return None
        self._used[entry.key] = self._store.now()
        return await self._hot_of(entry, expires_s=expires_s)

    async def _replay(self, operation: Operation) -> _Hot:
        entry = await self._read(self._store.read_recorded, operation)
        if entry is not None:
            self._tallies.add("hits")
            if entry.state is State.ERROR:
                message, error_type = entry.value
                raise ToolError(message, retryable=False, error_type=error_type)
            return await self._hot_of(entry)
        self._tallies.add(f"misses/{self._on_miss}")
        if self._on_miss == "nearest":
            near = await self._read(self._store.read_nearest, operation)
            if near is not None:
                hot = await self._hot_of(near)
                return replace(hot, fetched=replace(hot.fetched, stand_in=near.words))
        if self._on_miss == "fail":
            raise ToolError(
                f"{operation.kind} {operation.words!r} was not recorded",
                retryable=False,
                error_type="ReplayMiss",
            )
        value = nothing(operation.kind)
        fetched: Fetched[Any] = Fetched(value=value, provider="replay", cached=True)
        return _Hot(fetched=fetched, entry_key="", size=0, expires_s=NEVER)

    async def _fetch(self, operation: Operation, fetch: Fetch) -> _Hot:
        try:
            fetched = await self._ask(fetch)
        except ToolError as error:
            self._tallies.add(f"failures/{error.error_type}")
            if self._mode == "record":
                await asyncio.to_thread(self._store.write_error, operation, error, provider="")
            raise
        self._tallies.add("fetches")
        self._tallies.add("upstream_calls", fetched.upstream_calls)
        encoded = encode(operation.kind, fetched.value)
        self._tallies.add("bytes", encoded.size)
        await asyncio.to_thread(self._write, operation, fetched)
        now = self._store.now()
        return _Hot(
            fetched=fetched,
            entry_key=operation.key,
            size=encoded.size,
            expires_s=self._expires_s(operation.kind, encoded.state, now),
        )

    async def _ask(self, fetch: Fetch) -> Fetched[Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                with boundary(ToolError, "provider"):
                    return await fetch()
        except TimeoutError as error:
            raise too_slow(self._timeout_s) from error

    def _write(self, operation: Operation, fetched: Fetched[Any]) -> None:
        encoded = encode(operation.kind, fetched.value)
        self._share(encoded.images)
        self._store.write(
            operation,
            encoded,
            provider=fetched.provider,
            upstream_calls=fetched.upstream_calls,
            cost_usd=fetched.cost_usd,
        )
        if self._max_bytes is not None:
            self._unchecked_bytes += encoded.size
            self._unchecked_bytes += sum(
                self._store.images.path(ref.sha256).stat().st_size for ref in encoded.images
            )
            if self._unchecked_bytes * ROUNDS_PER_CAP >= self._max_bytes:
                self._unchecked_bytes = 0
                self.flush()
                gone = evict(self._store, max_bytes=self._max_bytes)
                self._tallies.add("evictions", gone.entries)

    async def _read(
        self, read: Callable[[Operation], Entry | None], operation: Operation
    ) -> Entry | None:
        """Images take long to check, so their entries are read beside the loop."""
        if operation.kind is Kind.IMAGE_SEARCH:
            return await asyncio.to_thread(read, operation)
        return read(operation)

    async def _hot_of(self, entry: Entry, *, expires_s: float = NEVER) -> _Hot:
        if entry.images:
            await asyncio.to_thread(self._share, entry.images)
        fetched: Fetched[Any] = Fetched(value=entry.value, provider=entry.provider, cached=True)
        return _Hot(fetched=fetched, entry_key=entry.key, size=entry.size, expires_s=expires_s)

    def _share(self, refs: tuple[ImageRef, ...]) -> None:
        """Give the store what a local corpus put into the run's folder, and the run the rest."""
        if self._run_images is None:
            return
        for ref in refs:
            if not self._images.has(ref):
                self._images.put(self._run_images.get(ref))
            self._run_images.put(self._images.get(ref))

    def _expires_s(self, kind: Kind, state: State, created_s: float) -> float:
        if self._mode != "live" or self._ages is None:
            return NEVER
        age_s = self._ages.nothing if state is State.NOTHING else self._ages.found[kind]
        return created_s + age_s


def too_slow(limit_s: float) -> ToolError:
    return ToolError(f"no answer within {limit_s:g} s", error_type="TimeoutError")


def _cached(fetched: Fetched[Any]) -> Fetched[Any]:
    if fetched.cached:
        return fetched
    return replace(fetched, cached=True, upstream_calls=0, cost_usd=0.0)
