"""The search actor is killed again and again under load: no call hangs, nothing is half-written."""

import asyncio
import functools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import ray

from actors.search import SearchClient, start_search_actors
from core.records import ToolCall, ToolResult
from envs.store.library import Library, Usage
from envs.store.store import Store
from envs.store.verify import verify
from envs.toolbox import LocalToolbox
from envs.tools import BrowseTool, ImageSearchTool, SearchTool
from tests.builders import make_rollout_id
from tests.fakes.library import CountedProvider

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

DEADLINE_S = 60.0
CALLERS = 16
CALL_S = 1.0
"""Patience with one call, on the whole, should the actor not come back."""
STORE_BYTES = 200_000
"""Small, so that the killed actor is often in the middle of an eviction."""


def open_toolbox(folder: Path) -> LocalToolbox:
    """Leaves the id of its process where the killer finds it."""
    (folder / "pid").write_text(str(os.getpid()))
    usage = Usage(session="kills/1", max_bytes=STORE_BYTES)
    library = Library(Store(folder / "store"), usage)
    provider = CountedProvider(library.images)
    return LocalToolbox(
        [
            SearchTool(library.search(provider), top_k=3),
            ImageSearchTool(library.image_search(provider), top_k=3),
            BrowseTool(library.pages(provider)),
        ],
        library,
    )


def some_call(rng: random.Random) -> ToolCall:
    word = f"word{rng.randrange(400)}"
    name, arguments = rng.choice(
        [
            ("search", {"queries": [word, f"word{rng.randrange(400)}"]}),
            ("image_search", {"query": word}),
            ("browse", {"url": f"https://a.test/{word}", "query": word}),
        ]
    )
    return ToolCall(name=name, arguments=json.dumps(arguments))


@pytest.mark.parametrize(
    ("kills", "calls"),
    [
        pytest.param(3, 300, marks=pytest.mark.slow),
        pytest.param(20, 2000, marks=pytest.mark.soak),
    ],
)
async def test_every_call_ends_and_the_store_stays_whole(
    tmp_path: Path, kills: int, calls: int
) -> None:
    (handle,) = start_search_actors(functools.partial(open_toolbox, tmp_path), num_cpus=0.1)
    client = SearchClient([handle], deadline_s=DEADLINE_S)
    await client.counters()
    results: list[ToolResult] = []
    slowest_s = 0.0
    killed: list[int] = []

    async def caller(number: int) -> None:
        nonlocal slowest_s
        rng = random.Random(number)
        while len(results) < calls or len(killed) < kills:
            started_s = time.monotonic()
            result = await client.call(some_call(rng), rollout_id=make_rollout_id(number))
            slowest_s = max(slowest_s, time.monotonic() - started_s)
            results.append(result)
            if rng.random() < 0.05:
                await client.release([number])

    async def killer() -> None:
        """At even distances of the load; each process once."""
        while len(killed) < kills:
            pid = int((tmp_path / "pid").read_text() or 0)
            if pid not in killed and len(results) >= len(killed) * calls / kills:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            await asyncio.sleep(0.005)

    async with asyncio.timeout(calls * CALL_S):
        await asyncio.gather(killer(), *(caller(number) for number in range(CALLERS)))
    assert len(set(killed)) == kills
    assert len(results) >= calls
    assert slowest_s < 2 * DEADLINE_S
    assert all(result.text or result.images for result in results)
    assert sum(result.error is not None for result in results) <= len(results) / 10
    evictions = (await client.counters()).evictions
    ray.kill(handle)
    await asyncio.to_thread(_wait_until_gone, int((tmp_path / "pid").read_text()))

    store = Store(tmp_path / "store")
    assert verify(store).problems == ()
    assert list(store.drafts.iterdir()) == [], "whoever is alone cleans up"
    assert evictions > 0
    store.close()


def _wait_until_gone(pid: int) -> None:
    for _ in range(3000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} lives on")
