"""A store at work for one run: its sources for the tools, its pins, and what it counts.

In: a store, and how the run wants to use it. Out: providers that answer through the store. One per
process; several of them may share one store. Fails as `ReadThrough` and `Store` do.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from core.protocols import ImageStore
from core.records import ImageRef, ToolResult
from envs.observations import observation_digest
from envs.provider import ImageSearch, PageReader, Summariser, TextSearch
from envs.store.images import StoreImages
from envs.store.pins import begin_session, pin, release
from envs.store.read_through import Ages, Mode, OnMiss, ReadThrough
from envs.store.sources import (
    StoredImageSearch,
    StoredPages,
    StoredSearch,
    StoredSummaries,
)
from envs.store.store import Observation, Store
from envs.store.tallies import Tallies


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How a run uses a store."""

    session: str = "run/0"
    """"<run>/<launch>": whose pins and counts they are."""
    mode: Mode = "live"
    on_miss: OnMiss = "fail"
    ages: Ages | None = None
    """None: nothing expires."""
    max_bytes: int | None = None
    timeout_s: float = 30.0
    """Of one operation."""


class Library:
    def __init__(
        self, store: Store, usage: Usage | None = None, *, run_images: ImageStore | None = None
    ) -> None:
        """`run_images`: where the run reads images, when that is not the store's folder."""
        self._usage = usage or Usage()
        self._store = store
        self.images = StoreImages(store)
        self.tallies = Tallies(store, self._usage.session)
        self._cache = ReadThrough(
            store,
            tallies=self.tallies,
            mode=self._usage.mode,
            on_miss=self._usage.on_miss,
            ages=self._usage.ages,
            max_bytes=self._usage.max_bytes,
            timeout_s=self._usage.timeout_s,
            run_images=run_images,
        )
        self._pinned: defaultdict[str, set[str]] = defaultdict(set)
        self._observed: dict[str, bool] = {}
        """Key of a call -> whether the kept observation is a failure."""
        begin_session(store, self._usage.session)

    def search(self, provider: TextSearch | None) -> TextSearch:
        """`provider` is asked on a miss. None: in a replay. So with the other three."""
        return StoredSearch(self._cache, provider)

    def image_search(self, provider: ImageSearch | None) -> ImageSearch:
        return StoredImageSearch(self._cache, provider)

    def pages(self, provider: PageReader | None) -> PageReader:
        return StoredPages(self._cache, provider)

    def summaries(self, provider: Summariser | None) -> Summariser:
        return StoredSummaries(self._cache, provider)

    def forget(self) -> None:
        """Drop what is in memory; the store has it."""
        self._cache.forget()

    async def pin(self, ordinal: int, refs: Sequence[ImageRef], *, heldout: bool = False) -> bool:
        """For a task of training, or a held-out one. False: one of the images is gone, and its
        search must be asked again.

        A replay evicts nothing, so it pins nothing.
        """
        if not refs or self._usage.mode == "replay":
            return True
        holder = self._holder(ordinal, heldout=heldout)
        new = [ref for ref in refs if ref.sha256 not in self._pinned[holder]]
        if new and not await asyncio.to_thread(pin, self._store, holder, new):
            self._cache.forget()
            return False
        self._pinned[holder].update(ref.sha256 for ref in new)
        return True

    async def release(self, ordinals: Sequence[int]) -> None:
        """Of training tasks: held-out ones have the same ordinals, and keep their images."""
        holders = [self._holder(ordinal) for ordinal in ordinals]
        for holder in holders:
            self._pinned.pop(holder, None)
        await asyncio.to_thread(release, self._store, holders)

    async def observe(self, call: str, result: ToolResult, *, key: str) -> None:
        """Keep what a recorded call showed; nothing in the other modes."""
        if self._usage.mode != "record":
            return
        failed = result.error is not None
        if key in self._observed and (failed or not self._observed[key]):
            return
        digest = observation_digest(result)
        seen = Observation(call_key=key, call=call, digest=digest, failed=failed)
        await asyncio.to_thread(self._store.observe, seen)
        self._observed[key] = failed

    async def flush_if_due(self) -> None:
        if self.tallies.due:
            await asyncio.to_thread(
                self._store.add_tallies, self._usage.session, self.tallies.take()
            )
            await asyncio.to_thread(self._cache.flush)

    def num_pins(self) -> int:
        prefix = f"{self._usage.session}:"
        statement = "SELECT count(*) FROM pins WHERE substr(holder, 1, ?) = ?"
        return int(self._store.rows(statement, (len(prefix), prefix))[0][0])

    def close(self) -> None:
        self._cache.flush()
        self.tallies.totals()
        self._store.close()

    def _holder(self, ordinal: int, *, heldout: bool = False) -> str:
        return f"{self._usage.session}:{'heldout-' if heldout else ''}{ordinal}"
