"""How fast the search actor answers what it has kept, and that it fetches nothing twice.

    python -m benchmarks.tool_cache --json

8 callers share one search actor on a local Ray; every call is answered from its store. Beside it,
in the same run: `empty_actor`, an actor that returns a constant (what Ray itself costs); a read of
the store on its node with no actor in between; 1,000 equal calls at once to a store that does not
have the answer; and `naive`, a client per call and no cache, over a service that takes 50 ms.
"""

import argparse
import asyncio
import functools
import json
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import ray
import requests

from actors.runtime_env import worker_env
from actors.search import SearchClient, start_search_actors
from benchmarks.machine import machine
from core.config import Config, default_environment
from core.records import RolloutId, ToolCall, ToolResult
from envs.provider import Fetched, SearchHit
from envs.store.library import Library
from envs.store.store import Store
from envs.toolbox import LocalToolbox
from envs.tools import SearchTool

CALLERS = 8
QUERIES = 64
WARM_UP_CALLS = 400
EQUAL_CALLS = 1000
NAIVE_S = 0.05
"""What the naive client's service takes for an answer."""
ROLLOUT = RolloutId(ordinal=0, index=0)
HITS = tuple(
    SearchHit(url=f"https://example.test/wiki/page_{n}", title=f"Page {n}", snippet="a fact " * 40)
    for n in range(3)
)

Call = Callable[[ToolCall], Awaitable[Any]]


class SlowSearch:
    """A text search that takes a moment, so that equal calls can meet."""

    version = "slow-1"

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        await asyncio.sleep(NAIVE_S)
        return Fetched(value=HITS[:k], provider="slow", upstream_calls=1)


class EmptyActor:
    async def call(self, call: ToolCall, rollout_id: RolloutId) -> ToolResult:
        return ANSWER


ANSWER = ToolResult(text="\n".join(f"[{h.url}] {h.title}: {h.snippet.strip()}" for h in HITS))


def open_toolbox(folder: Path) -> LocalToolbox:
    return toolbox_over(Library(Store(folder)))


def toolbox_over(library: Library) -> LocalToolbox:
    return LocalToolbox([SearchTool(library.search(SlowSearch()), top_k=3)], library)


def search_call(number: int) -> ToolCall:
    return ToolCall(name="search", arguments=json.dumps({"queries": [f"query {number}"]}))


async def timed(call: Call, *, calls: int) -> dict[str, float]:
    """CALLERS callers, one call after the other each."""
    seconds: list[float] = []

    async def caller(number: int, share: int) -> None:
        for turn in range(share):
            started_s = time.perf_counter()
            await call(search_call((number + turn) % QUERIES))
            seconds.append(time.perf_counter() - started_s)

    await asyncio.gather(*(caller(n, WARM_UP_CALLS // CALLERS) for n in range(CALLERS)))
    seconds.clear()
    started_s = time.perf_counter()
    await asyncio.gather(*(caller(n, calls // CALLERS) for n in range(CALLERS)))
    return summary(seconds, time.perf_counter() - started_s)


def summary(seconds: list[float], wall_s: float) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "calls_per_s": round(len(seconds) / wall_s, 1),
    }


async def measure_actors(folder: Path, *, calls: int) -> dict[str, Any]:
    """Ours and the empty one by turns, twice, so that neither has the warmer machine."""
    (handle,) = start_search_actors(functools.partial(open_toolbox, folder), num_cpus=0.1)
    empty = ray.remote(EmptyActor).options(num_cpus=0.1, max_concurrency=1000).remote()
    client = SearchClient([handle])
    equal = ToolCall(name="search", arguments='{"queries": ["all at once"]}')
    await asyncio.gather(*(client.call(equal, rollout_id=ROLLOUT) for _ in range(EQUAL_CALLS)))
    upstream = (await client.counters()).upstream_calls
    await asyncio.gather(*(client.call(search_call(n), rollout_id=ROLLOUT) for n in range(QUERIES)))
    ours, floor = [], []
    for _ in range(3):
        floor.append(await timed(lambda call: empty.call.remote(call, ROLLOUT), calls=calls))
        ours.append(await timed(lambda call: client.call(call, rollout_id=ROLLOUT), calls=calls))
    ray.kill(handle)
    ray.kill(empty)
    middle = sorted(ours, key=lambda one: one["calls_per_s"])[1]
    middle_floor = sorted(floor, key=lambda one: one["calls_per_s"])[1]
    return {**middle, "empty_actor": middle_floor, "upstream_calls": upstream}


async def measure_local(folder: Path, *, calls: int) -> float:
    """Milliseconds of a read of the file: what is in memory is dropped each time."""
    library = Library(Store(folder))
    toolbox = toolbox_over(library)
    seconds = []
    for number in range(calls):
        library.forget()
        started_s = time.perf_counter()
        result = await toolbox.call(search_call(number % QUERIES), rollout_id=ROLLOUT)
        seconds.append(time.perf_counter() - started_s)
        assert result.cached
    return round(float(np.median(seconds)) * 1000, 3)


class _SlowService(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(NAIVE_S)
        body = json.dumps({"text": ANSWER.text}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *unused: object) -> None:
        """Silent."""


def measure_naive(*, calls: int) -> dict[str, float]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _SlowService)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/search"

    def one(number: int) -> float:
        started_s = time.perf_counter()
        requests.get(url, params={"q": f"query {number % QUERIES}"}, timeout=10).json()
        return time.perf_counter() - started_s

    started_s = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        seconds = list(pool.map(one, range(calls)))
    wall_s = time.perf_counter() - started_s
    server.shutdown()
    return summary(seconds, wall_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--calls", type=int, default=4000, help="of one round of one actor")
    arguments = parser.parse_args()
    default_environment("RAY_AUTH_MODE", "disabled")
    default_environment("RAY_worker_niceness", "0")
    root = str(Path(__file__).resolve().parent.parent)
    env = worker_env(Config()) | {"PYTHONPATH": root}
    with tempfile.TemporaryDirectory(prefix="tc-", dir="/tmp") as name:
        folder = Path(name)
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(folder / "ray"),
            runtime_env={"env_vars": env},
        )
        try:
            actors = asyncio.run(measure_actors(folder / "store", calls=arguments.calls))
        finally:
            ray.shutdown()
        local_p50_ms = asyncio.run(measure_local(folder / "store", calls=2000))
    result = {
        "benchmark": "tool_cache",
        "machine": machine(),
        **actors,
        "local_p50_ms": local_p50_ms,
        "naive": measure_naive(calls=200),
    }
    if not arguments.json:
        for key, value in result.items():
            print(f"{key}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
