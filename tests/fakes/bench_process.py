"""A KnowGen-shaped evaluation as a process of its own, so that a test can kill it.

    python -m tests.fakes.bench_process FOLDER JUDGE_URL

The rows are made up, a fake image model paints them, and a real client asks the judge at the URL.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.bench.agents import RawPrompt
from cluster.bench.journal import Journals
from cluster.bench.pipeline import Makers, Pipeline, Width
from cluster.bench.rows import RowResult
from cluster.bench.scorers import KScoreScorer
from cluster.judges import open_model_judge
from core.benchmarks import CATEGORY_GROUPS
from core.config import Config, build_config
from envs.benchmarks import BenchTask
from envs.images import FileImageStore
from tests.builders import png_bytes
from tests.builders_bench import make_item
from tests.fakes.image_model import FakeImageModel

NUM_ROWS = 200
WIDTH = 8


def make_items(images: FileImageStore, *, count: int = NUM_ROWS) -> list[BenchTask]:
    """Rows over all of KnowGen's categories, each with a prompt and a truth of its own."""
    categories = sorted(CATEGORY_GROUPS)
    return [
        make_item(
            number,
            category=categories[number % len(categories)],
            prompt=f"Draw made-up thing number {number}.",
            ground_truth=images.put(png_bytes((number, 255 - number, 7), size=(16, 16))),
        )
        for number in range(count)
    ]


def judge_config(url: str, *, root: str, width: int = WIDTH) -> Config:
    judge = {
        **{"kind": "openai", "model": "eye", "base_url": url, "api_key_env": ""},
        **{"max_in_flight": width, "per_second": 1000.0, "max_tries": 4, "deadline_s": 300.0},
    }
    return build_config({"judge": judge, "run": {"root": root}})


async def evaluate(
    folder: Path, url: str, items: Sequence[BenchTask] | None = None
) -> tuple[RowResult, ...]:
    images = FileImageStore(folder / "images")
    config = judge_config(url, root=str(folder))
    judge = open_model_judge(config, folder, api_key="")
    journals = Journals(folder)
    pipeline = Pipeline(
        Makers(
            agent=RawPrompt(),
            image_model=FakeImageModel(images),
            scorer=KScoreScorer(judge=judge, with_text=False),
        ),
        journals=journals,
        render=config.render,
        width=Width(agent=WIDTH, render=WIDTH, judge=WIDTH),
        reads_answer=False,
    )
    try:
        return await pipeline.run(items or make_items(images))
    finally:
        journals.close()


if __name__ == "__main__":
    asyncio.run(evaluate(Path(sys.argv[1]), sys.argv[2]))
