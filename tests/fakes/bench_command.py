"""`gensearcher eval` as a process of its own in which Ray cannot be imported, and its data.

Everything that it asks is on loopback: the judge, the image API, and the endpoint that plays the
agent where there is one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.benchmarks import CATEGORY_GROUPS
from tests.builders import png_bytes
from tests.fakes.image_servers import KEY

WIDTH = 16
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from cluster.cli import app; app()"


def write_knowgen(folder: Path, *, num_rows: int) -> Path:
    """`KnowGen-Bench.json` over all categories, each row with a prompt and a truth of its own."""
    categories = sorted(CATEGORY_GROUPS)
    rows = []
    for number in range(num_rows):
        colour = (number % 256, 255 - number % 256, 7)
        (folder / f"{number}.png").write_bytes(png_bytes(colour, size=(16, 16)))
        rows.append(
            {
                "id": 3000 + number,
                "prompt": f"Draw made-up thing number {number}.",
                "meta": {"category": categories[number % len(categories)], "difficulty": "easy"},
                "gt_image": f"{number}.png",
            }
        )
    path = folder / "KnowGen-Bench.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def eval_command(benchmark: str, *options: str, judge_url: str, images_url: str) -> list[str]:
    """With the judge and the image model behind endpoints, and nothing that waits for long."""
    judge = {
        **{"kind": "openai", "model": "eye", "base_url": judge_url, "api_key_env": ""},
        **{"max_in_flight": WIDTH, "per_second": 1000, "max_tries": 3},
    }
    api = {"model": "painter", "base_url": images_url, "per_second": 1000}
    return [
        *(sys.executable, "-c", WITHOUT_RAY, "eval", benchmark, *options),
        *(f"judge.{name}={value}" for name, value in judge.items()),
        *("render.backend=openai", *(f"render.api.{name}={value}" for name, value in api.items())),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OPENAI_API_KEY": KEY}


def evaluate(command: Sequence[str]) -> dict[str, Any]:
    """What it writes with --json."""
    done = subprocess.run(
        [*command, "--json"], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    tree: dict[str, Any] = json.loads(done.stdout)
    return tree
