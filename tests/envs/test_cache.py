"""The cache fetches each key once, keeps no errors and survives being killed."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import ConfigError, ToolError
from core.records import ToolResult
from envs.cache import CacheCounters, ToolCache
from tests.builders import make_found_image

FOUND = ToolResult(text="Torvi \ud83d", images=(make_found_image("a"), make_found_image("b")))


class Upstream:
    """A fetch that counts, and that waits until it is let go."""

    def __init__(self, *outcomes: ToolResult | Exception) -> None:
        self.outcomes = list(outcomes)
        self.num_calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> ToolResult:
        self.num_calls += 1
        await self.gate.wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_a_result_comes_back_whole_from_a_reopened_file(tmp_path: Path) -> None:
    upstream = Upstream(replace(FOUND, cost_usd=0.5, latency_s=2.0))
    first = ToolCache(tmp_path / "cache.sqlite")
    assert (await first.get_or_call("k", upstream)).cost_usd == 0.5
    first.close()
    second = ToolCache(tmp_path / "cache.sqlite")
    assert await second.get_or_call("k", upstream) == replace(FOUND, cached=True)
    assert upstream.num_calls == 1
    assert second.counters == CacheCounters(hits=1)


async def test_equal_calls_in_flight_make_one_upstream_call(tmp_path: Path) -> None:
    cache, upstream = ToolCache(tmp_path / "cache.sqlite"), Upstream(FOUND)
    upstream.gate.clear()
    calls = [asyncio.create_task(cache.get_or_call("k", upstream)) for _ in range(1000)]
    await asyncio.sleep(0)
    upstream.gate.set()
    results = await asyncio.gather(*calls)
    assert upstream.num_calls == 1
    assert cache.counters == CacheCounters(coalesced=999, misses=1)
    assert [result.cached for result in results].count(False) == 1


async def test_different_keys_are_fetched_side_by_side(tmp_path: Path) -> None:
    cache, first, second = ToolCache(tmp_path / "c"), Upstream(FOUND), Upstream(FOUND)
    first.gate.clear()
    waiting = asyncio.create_task(cache.get_or_call("a", first))
    await asyncio.wait_for(cache.get_or_call("b", second), timeout=5)
    first.gate.set()
    await waiting


@pytest.mark.parametrize(
    "failed", [ToolError("down"), ToolResult(text="search unavailable", error="down")]
)
async def test_errors_are_not_kept(tmp_path: Path, failed: ToolResult | ToolError) -> None:
    cache, upstream = ToolCache(tmp_path / "cache.sqlite"), Upstream(failed, FOUND)
    outcomes = await _outcomes(cache, upstream, times=2)
    assert outcomes[1] == FOUND
    assert upstream.num_calls == 2


async def test_an_error_reaches_every_caller_that_waits(tmp_path: Path) -> None:
    cache, upstream = ToolCache(tmp_path / "cache.sqlite"), Upstream(ToolError("down"))
    calls = [cache.get_or_call("k", upstream) for _ in range(5)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["down"] * 5


async def test_a_caller_that_gives_up_does_not_stop_the_fetch(tmp_path: Path) -> None:
    cache, upstream = ToolCache(tmp_path / "cache.sqlite"), Upstream(FOUND)
    upstream.gate.clear()
    first = asyncio.create_task(cache.get_or_call("k", upstream))
    await asyncio.sleep(0)
    second = asyncio.create_task(cache.get_or_call("k", upstream))
    await asyncio.sleep(0)
    first.cancel()
    upstream.gate.set()
    assert (await second).text == FOUND.text
    assert upstream.num_calls == 1


async def test_results_of_another_schema_are_dropped(tmp_path: Path) -> None:
    path, upstream = tmp_path / "cache.sqlite", Upstream(FOUND, FOUND)
    cache = ToolCache(path)
    await cache.get_or_call("k", upstream)
    cache.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    await ToolCache(path).get_or_call("k", upstream)
    assert upstream.num_calls == 2


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database" * 100)
    with pytest.raises(ConfigError, match=r"tools\.cache_path.*delete the file"):
        ToolCache(tmp_path / "text")


async def _outcomes(
    cache: ToolCache, call: Callable[[], Awaitable[ToolResult]], *, times: int
) -> list[ToolResult | BaseException]:
    outcomes: list[ToolResult | BaseException] = []
    for _ in range(times):
        outcomes += await asyncio.gather(cache.get_or_call("k", call), return_exceptions=True)
    return outcomes
