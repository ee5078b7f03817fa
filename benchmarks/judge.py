"""How close a judged evaluation comes to the time that its judge alone would take.

    python -m benchmarks.judge --json

500 rows, 30% of them equal to an earlier one, over a judge on loopback (a process of its own)
that takes 50 ms for a verdict, with 16 places. `ideal_ratio` is wall time over that of the
distinct rows in full waves; `cpu_ms_per_call` is what this process computes for one, which also a
busy machine measures; `naive` is the plain way: a thread pool of the same width, one request
a row, nothing kept. Pictures are 64 pixels wide, small enough to be sent as they are.
"""

import argparse
import asyncio
import base64
import io
import json
import math
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.machine import machine
from cluster.bench.run import width_of
from cluster.judges import open_panel
from core.config import Config, build_config
from core.records import ImageRef, Task, TaskMeta
from envs.http import AiohttpClient
from envs.images import FileImageStore
from rewards.model_judge import ModelJudge
from rewards.rubrics import Rubrics

DUPLICATES = 0.3
SERVER = """
import asyncio, json, sys
from tests.fakes.judge_server import JudgeServer

async def main():
    async with JudgeServer(delay_s=float(sys.argv[1])) as server:
        print(server.base_url, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps([server.num_calls, server.num_paid_twice]), flush=True)
            server.asked.clear(), server.paid.clear(), server.seen.clear()

asyncio.run(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--width", type=int, default=16, help="verdicts under way at once")
    parser.add_argument("--delay-ms", type=float, default=50.0, help="what a verdict takes")
    arguments = parser.parse_args()
    delay_s = arguments.delay_ms / 1000
    with tempfile.TemporaryDirectory(prefix="judge-") as name, server(delay_s) as running:
        folder = Path(name)
        rows = make_rows(FileImageStore(folder / "images"), num=arguments.rows)
        config = config_for(running.url, width=arguments.width)
        asyncio.run(judge_rows(rows[:1], config, folder / "warm-up", images=folder / "images"))
        running.counts()
        cpu_s = time.process_time()
        wall_s = asyncio.run(judge_rows(rows, config, folder / "run", images=folder / "images"))
        cpu_s = time.process_time() - cpu_s
        calls, paid_twice = running.counts()
        naive_s = naive(rows, running.url, width=arguments.width, images=folder / "images")
        naive_calls, _ = running.counts()
    distinct = len({(task.prompt, image) for task, image in rows})
    ideal_s = math.ceil(distinct / arguments.width) * delay_s
    result = {
        "benchmark": "judge",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "rows": len(rows),
        "distinct_rows": distinct,
        "width": arguments.width,
        "delay_ms": arguments.delay_ms,
        "rows_per_s": round(len(rows) / wall_s, 1),
        "calls": calls,
        "duplicate_calls": paid_twice,
        "ideal_ratio": round(wall_s / ideal_s, 3),
        "cpu_ms_per_call": round(1000 * cpu_s / calls, 2),
        "naive": {
            "rows_per_s": round(len(rows) / naive_s, 1),
            "calls": naive_calls,
            "ideal_ratio": round(naive_s / ideal_s, 3),
        },
    }
    if not arguments.json:
        print(f"{wall_s:.2f} s, ideal {ideal_s:.2f} s, naive {naive_s:.2f} s")
    print(json.dumps(result))


class Running:
    """The fake judge in a process of its own, so that it takes no time of ours."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._line()

    def counts(self) -> tuple[int, int]:
        """(calls, calls paid twice) since the last time."""
        assert self._process.stdin is not None
        self._process.stdin.write("counts\n")
        self._process.stdin.flush()
        calls, paid_twice = json.loads(self._line())
        return calls, paid_twice

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def server(delay_s: float) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(delay_s)],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.wait()


def config_for(url: str, *, width: int) -> Config:
    judge = {
        **{"kind": "openai", "model": "fake", "base_url": url, "api_key_env": ""},
        **{"max_in_flight": width, "per_second": 10_000.0},
    }
    return build_config({"judge": judge})


def make_rows(store: FileImageStore, *, num: int) -> list[tuple[Task, ImageRef]]:
    """Rows in which each of the later ones is a copy of an earlier one with the stated chance."""
    rng = random.Random(0)
    rows: list[tuple[Task, ImageRef]] = []
    for number in range(num):
        if number >= num * (1 - DUPLICATES):
            rows.append(rng.choice(rows[: round(num * (1 - DUPLICATES))]))
            continue
        image, truth = (store.put(picture(rng)) for _ in range(2))
        task = Task(
            task_id=str(number),
            ordinal=number,
            prompt=f"Draw number {number}.",
            ground_truth=truth,
            meta=TaskMeta(category="art"),
        )
        rows.append((task, image))
    rng.shuffle(rows)
    return rows


def picture(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (64, 64), rng.randbytes(64 * 64 * 3)).save(buffer, format="PNG")
    return buffer.getvalue()


async def judge_rows(
    rows: list[tuple[Task, ImageRef]], config: Config, folder: Path, *, images: Path
) -> float:
    """Seconds for all of them, as many at once as in an evaluation."""
    folder.mkdir()
    (folder / "images").symlink_to(images)
    width = config.judge.max_in_flight
    http = AiohttpClient(may_connect=lambda address: True, max_connections_per_host=width)
    judge = ModelJudge(open_panel(config, folder, api_key="", http=http), Rubrics())
    room = asyncio.Semaphore(width_of(config).judge)

    async def ask(task: Task, image: ImageRef) -> None:
        async with room:
            await judge.judge_image(task=task, image=image)

    started = time.monotonic()
    await asyncio.gather(*(ask(task, image) for task, image in rows))
    wall_s = time.monotonic() - started
    await http.close()
    return wall_s


def naive(rows: list[tuple[Task, ImageRef]], url: str, *, width: int, images: Path) -> float:
    """The same questions from a thread pool, one request a row."""
    store = FileImageStore(images)

    def part(ref: ImageRef) -> dict[str, Any]:
        data = base64.b64encode(store.get(ref)).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    def ask(row: tuple[Task, ImageRef]) -> Any:
        task, image = row
        assert task.ground_truth is not None
        content = [{"type": "text", "text": task.prompt}, part(image), part(task.ground_truth)]
        body = {"model": "fake", "messages": [{"role": "user", "content": content}]}
        request = urllib.request.Request(
            f"{url}/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(json.loads(response.read())["choices"][0]["message"]["content"])

    started = time.monotonic()
    with ThreadPoolExecutor(width) as pool:
        list(pool.map(ask, rows))
    return time.monotonic() - started


if __name__ == "__main__":
    main()
