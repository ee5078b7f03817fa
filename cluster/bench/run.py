"""One evaluation, from what can be refused to its files.

In: a plan and a Config. Out: what summary.json holds; everything else is under the run's folder:
agent.jsonl, render.jsonl, judge.jsonl (the rows), images/, summary.json, report.html, and the
files of the benchmark's own tools. Run again, it goes on where it was stopped. Ctrl-C, SIGTERM and
kill -9 lose no row that was counted.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from rich.console import Console
from rich.status import Status

from cluster.bench.choices import STAGES
from cluster.bench.journal import Journals
from cluster.bench.outputs import Evaluation, write_outputs
from cluster.bench.parts import open_makers
from cluster.bench.pipeline import Counts, Pipeline, Width
from cluster.bench.plan import EvalPlan, load_tasks, rules_of
from cluster.bench.ready import claimed_folder, read_needed_keys, refuse_unready
from cluster.bench.rows import RowResult
from cluster.openers import Keys
from cluster.signals import stopped_like_ctrl_c
from core.config import Config, save_config
from core.sections.scoring import RenderConfig
from envs.benchmarks import BenchTask
from envs.images import FileImageStore

REFRESH_S = 0.5


def run_evaluation(plan: EvalPlan, config: Config, *, console: Console) -> dict[str, Any]:
    """Raises ConfigError, DataError for what the user can mend."""
    refuse_unready(plan, config)
    keys = read_needed_keys(plan, config)
    folder = config.run_dir
    started_s, counts = time.monotonic(), Counts()
    with stopped_like_ctrl_c(), claimed_folder(plan, folder):
        images = FileImageStore(folder.resolve() / "images")
        items = load_tasks(plan, config, images=images)
        save_config(config, folder / "config.yaml")
        rows = _play(plan, config, items, keys=keys, images=images, counts=counts, console=console)
        evaluation = Evaluation(
            plan=plan,
            rows=rows,
            rules=rules_of(plan, config),
            counts=counts,
            wall_s=time.monotonic() - started_s,
        )
        return write_outputs(evaluation, config, images=images)


def _play(
    plan: EvalPlan,
    config: Config,
    items: Sequence[BenchTask],
    *,
    keys: Keys,
    images: FileImageStore,
    counts: Counts,
    console: Console,
) -> tuple[RowResult, ...]:
    """All rows as far as the plan goes; what it needs is up for just as long."""
    with ExitStack() as stack:
        status = stack.enter_context(console.status("starting what the evaluation needs"))
        journals = Journals(config.run_dir)
        stack.callback(journals.close)
        makers = stack.enter_context(open_makers(plan, config, keys=keys, images=images))
        pipeline = Pipeline(
            makers,
            journals=journals,
            render=config.render,
            width=width_of(config),
            reads_answer=plan.reads_answer,
            counts=counts,
        )
        return asyncio.run(_run(pipeline, items, status))


def width_of(config: Config) -> Width:
    """No stage queues more than it can work on: the deadlines of a maker begin when it is asked."""
    return Width(
        agent=config.eval.max_parallel_episodes,
        render=_renders_at_once(config.render),
        judge=2 * config.judge.max_in_flight,  # the next questions are ready when a place is free
    )


def _renders_at_once(render: RenderConfig) -> int:
    return max(render.api.max_in_flight, 2 * render.max_replicas)


async def _run(
    pipeline: Pipeline, items: Sequence[BenchTask], status: Status
) -> tuple[RowResult, ...]:
    shown = asyncio.create_task(_show(pipeline.counts, len(items), status))
    try:
        return await pipeline.run(items)
    finally:
        shown.cancel()
        with suppress(asyncio.CancelledError):
            await shown


async def _show(counts: Counts, total: int, status: Status) -> None:
    while True:
        parts = []
        for stage in STAGES:
            done = counts.made.get(stage, 0) + counts.reused.get(stage, 0)
            failed = counts.failed.get(stage, 0)
            parts.append(f"{stage} {done}/{total}" + (f" ({failed} failed)" if failed else ""))
        status.update("  ".join(parts))
        await asyncio.sleep(REFRESH_S)
