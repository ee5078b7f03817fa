"""Tool results, each fetched once: a SQLite file (WAL) in front of every provider.

In: a content key and a coroutine that fetches. Out: its ToolResult, from the file when the key is
known. N equal calls in flight make one fetch. An exception or a result with `error` is never kept.
The file holds image references, not bytes, so it belongs beside the image store that has them.
Fails with ConfigError when the file is no cache, with ToolError when it cannot be read or written.
"""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import ConfigError, ToolError, boundary
from core.records import FoundImage, ImageRef, ToolResult, to_jsonable

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounters:
    """Since the cache was opened."""

    hits: int = 0
    """Calls answered from the file."""
    coalesced: int = 0
    """Calls that waited for an equal one in flight."""
    misses: int = 0
    """Calls that fetched."""


class ToolCache:
    """Open it with a path; the file is made when it is missing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The actor that holds the cache makes it on one thread and asks it on another.
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            _prepare(self._db)
        except sqlite3.Error as error:
            raise ConfigError(
                f"tools.cache_path: {path} cannot be used as a cache ({error}); "
                "delete the file or name another"
            ) from error
        self._in_flight: dict[str, asyncio.Task[ToolResult]] = {}
        self.counters = CacheCounters()

    async def get_or_call(self, key: str, call: Callable[[], Awaitable[ToolResult]]) -> ToolResult:
        """The kept result of `key`, or that of `call`, which goes on when a caller gives up.

        Raises what `call` raises, to every caller that waits for it.
        """
        kept = self._read(key)
        if kept is not None:
            self.counters = replace(self.counters, hits=self.counters.hits + 1)
            return kept
        task = self._in_flight.get(key)
        if task is not None:
            self.counters = replace(self.counters, coalesced=self.counters.coalesced + 1)
            return replace(await asyncio.shield(task), cached=True, cost_usd=0.0)
        self.counters = replace(self.counters, misses=self.counters.misses + 1)
        task = asyncio.create_task(self._fetch(key, call))
        self._in_flight[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def close(self) -> None:
        self._db.close()

    async def _fetch(self, key: str, call: Callable[[], Awaitable[ToolResult]]) -> ToolResult:
        result = await call()
        if result.error is None:
            row = (key, json.dumps(to_jsonable(result), ensure_ascii=True))
            with boundary(ToolError, "writing the tool cache"):
                self._db.execute("INSERT OR REPLACE INTO results VALUES (?, ?)", row)
        return result

    def _forget(self, key: str, done: asyncio.Task[ToolResult]) -> None:
        del self._in_flight[key]
        if not done.cancelled():
            done.exception()  # every caller may have gone; then nobody else asks for it

    def _read(self, key: str) -> ToolResult | None:
        with boundary(ToolError, "reading the tool cache"):
            row = self._db.execute("SELECT result FROM results WHERE key = ?", (key,)).fetchone()
        return None if row is None else _from_json(row[0])


def _prepare(db: sqlite3.Connection) -> None:
    """Another schema version means another program's results: they are dropped."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    (schema,) = db.execute("PRAGMA user_version").fetchone()
    if schema != SCHEMA_VERSION:
        db.execute("DROP TABLE IF EXISTS results")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, result TEXT NOT NULL)")


def _from_json(text: str) -> ToolResult:
    """A kept result, marked as such: it cost nothing this time."""
    raw = json.loads(text)
    images = tuple(
        FoundImage(ref=ImageRef(**image["ref"]), title=image["title"], page_url=image["page_url"])
        for image in raw["images"]
    )
    return ToolResult(text=raw["text"], images=images, cached=True)
