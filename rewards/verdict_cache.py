"""Votes of judges, each paid for once: a SQLite file (WAL) in front of every paid question.

In: a content key and a coroutine that asks. Out: its Vote, from the file when the key is known.
N equal questions in flight are asked once. A failure is never kept. A vote is in the file before
the caller sees it, so a process that is killed loses no verdict that anything else has counted.
Fails with ConfigError when the file is no cache, with JudgeError when it cannot be read or written.
"""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError, JudgeError, boundary
from core.records import to_jsonable

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One verdict of one judge."""

    grades: Mapping[str, float | None]
    """None: the grade does not apply."""
    rationale: str
    tokens: int = 0
    """Prompt and completion, refused replies included."""
    cost_usd: float = 0.0


@dataclass(slots=True, kw_only=True)
class VerdictCounters:
    """Since the cache was opened."""

    hits: int = 0
    coalesced: int = 0
    """Questions that waited for an equal one in flight."""
    asked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    vote: Vote
    cached: bool
    """True: this caller paid nothing for it."""


class VerdictCache:
    """Open it with a path, made when it is missing; ":memory:" keeps nothing on disk."""

    def __init__(self, path: Path | str) -> None:
        if path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            # The actor that holds the cache makes it on one thread and asks it on another.
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            raise ConfigError(
                f"{path} cannot be used as a verdict cache ({error}); delete the file"
            ) from error
        self._in_flight: dict[str, asyncio.Task[Vote]] = {}
        self.counters = VerdictCounters()

    async def get_or_ask(self, key: str, ask: Callable[[], Awaitable[Vote]]) -> Kept:
        """The kept vote of `key`, or that of `ask`, which goes on when its caller gives up.

        Raises what `ask` raises, to every caller that waits for it.
        """
        task = self._in_flight.get(key)
        if task is not None:
            self.counters.coalesced += 1
            return Kept(vote=await asyncio.shield(task), cached=True)
        kept = self._read(key)
        if kept is not None:
            self.counters.hits += 1
            return Kept(vote=kept, cached=True)
        self.counters.asked += 1
        task = asyncio.create_task(self._ask(key, ask))
        self._in_flight[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))
        return Kept(vote=await asyncio.shield(task), cached=False)

    def close(self) -> None:
        self._db.close()

    async def _ask(self, key: str, ask: Callable[[], Awaitable[Vote]]) -> Vote:
        vote = await ask()
        row = (key, json.dumps(to_jsonable(vote)))
        with boundary(JudgeError, "writing the verdict cache"):
            self._db.execute("INSERT OR REPLACE INTO votes VALUES (?, ?)", row)
        return vote

    def _forget(self, key: str, done: asyncio.Task[Vote]) -> None:
        del self._in_flight[key]
        if not done.cancelled():
            done.exception()  # every caller may have gone; then nobody else asks for it

    def _read(self, key: str) -> Vote | None:
        with boundary(JudgeError, "reading the verdict cache"):
            row = self._db.execute("SELECT vote FROM votes WHERE key = ?", (key,)).fetchone()
            return None if row is None else Vote(**json.loads(row[0]))

    def _prepare(self) -> None:
        """Another schema version means another program's verdicts: they are dropped."""
        self._db.execute("PRAGMA busy_timeout = 10000")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if schema != SCHEMA_VERSION:
            self._db.execute("DROP TABLE IF EXISTS votes")
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._db.execute("CREATE TABLE IF NOT EXISTS votes (key TEXT PRIMARY KEY, vote TEXT)")
