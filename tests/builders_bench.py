"""One-line builders of evaluation rows; every default is valid."""

from collections.abc import Mapping
from typing import Any

from cluster.bench.rows import (
    AgentRow,
    Drawn,
    Judged,
    JudgeRow,
    Played,
    Reference,
    RenderRow,
    RowResult,
)
from core.records import Failure, ImageRef, TaskMeta
from envs.benchmarks import BenchTask
from rewards.kscore import WEIGHTS
from tests.builders import make_image_ref, make_task

HALF: Mapping[str, float | None] = dict.fromkeys(WEIGHTS, 0.5)


def make_item(ordinal: int = 0, *, category: str = "biology", **changes: Any) -> BenchTask:
    values = {"meta": TaskMeta(category=category, difficulty="easy")} | changes
    task = make_task(ordinal, task_id=str(ordinal), **values)
    return BenchTask(task=task, row_id=ordinal, label=category.title(), truth_path="/data/t.png")


def make_played(**changes: Any) -> Played:
    values: dict[str, Any] = {
        "gen_prompt": "a bird, as in the first reference image",
        "references": (),
        "stop_reason": "answer",
    }
    return Played(**(values | changes))


def make_reference(image: ImageRef) -> Reference:
    return Reference(
        img_id="IMG_002", note="the wings", title="Bird", page_url="https://b.test", image=image
    )


def make_judged(grades: Mapping[str, float | None] = HALF, **changes: Any) -> Judged:
    values = {"rationale": "It is a bird.", "judge": "openai:eye", "rubric_sha": "ab" * 32}
    return Judged(grades=grades, **(values | changes))


def make_result(
    outcome: Mapping[str, float | None] | Failure = HALF,
    *,
    item: BenchTask | None = None,
    played: Played | None = None,
    image: ImageRef | None = None,
) -> RowResult:
    """A row that went the whole way; a Failure is the judge's."""
    item = item or make_item()
    judged = outcome if isinstance(outcome, Failure) else make_judged(outcome)
    names = {"task_id": item.task.task_id, "of": "of", "by": "by", "seconds": 1.0}
    drawn = Drawn(image=image or make_image_ref("drawn"), model="painter", cost_usd=0.25)
    return RowResult(
        item=item,
        agent=AgentRow(outcome=played or make_played(), **names),
        render=RenderRow(outcome=drawn, **names),
        judge=JudgeRow(outcome=judged, **names),
    )
