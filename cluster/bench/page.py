"""report.html of an evaluation: its table with intervals, what failed, best and worst cases.

In: rows and what was made of them. Out: one self-contained page, pictures included, shrunk to what
a page needs.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cluster.bench.agents import NOBODY
from cluster.bench.rows import Played, RowResult
from cluster.bench.rules import SCORE, Rules
from cluster.bench.summary import BenchSummary, cause_of
from cluster.report.pages import render_page
from core.errors import StageError
from core.files import write_atomic
from core.protocols import ImageStore
from core.records import ImageRef

MAX_SIDE = 384
"""Larger pictures are shrunk for the page; the files beside it are whole."""
MAX_FAILED_SHOWN = 50
MAX_UNJUDGED_SHOWN = 24
"""Pictures of an evaluation in which nothing has a score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One task as the page shows it."""

    task_id: str
    prompt: str
    category: str
    score: float
    grades: Mapping[str, float | None]
    """As parts of the highest grade."""
    gen_prompt: str
    ending: str
    last_words: str
    """Of an episode without an answer: its last turn."""
    rationale: str
    references: tuple[tuple[str, ImageRef], ...]
    drawn: ImageRef | None
    truth: ImageRef | None


def write_page(
    path: Path,
    *,
    tree: Mapping[str, Any],
    summary: BenchSummary,
    rows: Sequence[RowResult],
    rules: Rules,
    images: ImageStore,
    num_cases: int,
) -> None:
    """`tree` is what summary.json holds."""
    worst, best = pick_cases(rows, rules=rules, count=num_cases)
    lost = [row for row in rows if row.failure is not None]
    page = render_page(
        "benchmark.html.j2",
        tree=tree,
        summary=summary,
        score=SCORE,
        dimensions=rules.dimensions,
        lines=[summary.overall, *summary.groups, *summary.categories],
        worst=worst,
        best=best,
        lost=[(row.item.task.task_id, cause_of(row), _message(row)) for row in lost],
        max_lost=MAX_FAILED_SHOWN,
        unjudged=[(r.item.task.prompt, r.drawn.image) for r in rows if r.drawn][
            :MAX_UNJUDGED_SHOWN
        ],
        picture=lambda ref: picture_uri(ref, images=images),
    )
    write_atomic(path, page.encode())


def pick_cases(
    rows: Sequence[RowResult], *, rules: Rules, count: int
) -> tuple[list[Case], list[Case]]:
    """(the worst, the best): at most `count` of each, no task twice, ties in the tasks' order."""
    cases = [case for row in rows if (case := _case(row, rules=rules)) is not None]
    ordered = sorted(cases, key=lambda case: case.score)
    count = min(count, len(ordered) // 2 or len(ordered))
    worst = ordered[:count]
    best = sorted(ordered[max(count, len(ordered) - count) :], key=lambda c: c.score, reverse=True)
    return worst, best


def picture_uri(ref: ImageRef | None, *, images: ImageStore) -> str | None:
    """A data URI; None when there is no image, or its bytes are gone."""
    if ref is None:
        return None
    try:
        data = images.get(ref)
    except StageError:
        return None
    media_type = ref.media_type
    if max(ref.width, ref.height) > MAX_SIDE:
        with Image.open(io.BytesIO(data)) as opened:
            small = opened.convert("RGB")
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=88)
        data, media_type = buffer.getvalue(), "image/jpeg"
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _case(row: RowResult, *, rules: Rules) -> Case | None:
    judged, played = row.judged, row.played
    if judged is None or played is None:
        return None
    ending = "the raw prompt" if played.stop_reason == NOBODY else played.stop_reason
    if played.fallback:
        ending = f"the raw prompt, because {played.fallback}"
    return Case(
        task_id=row.item.task.task_id,
        prompt=row.item.task.prompt,
        category=row.item.task.meta.category,
        score=rules.row_score(judged.grades),
        grades={name: rules.part(judged.grades[name]) for name in rules.dimensions},
        gen_prompt=played.gen_prompt or "",
        ending=ending.replace("_", " "),
        last_words="" if played.gen_prompt and not played.fallback else _last_words(played),
        rationale=judged.rationale,
        references=tuple((f"{r.img_id}: {r.title}", r.image) for r in played.references),
        drawn=row.drawn.image if row.drawn else None,
        truth=row.item.task.ground_truth,
    )


def _last_words(played: Played) -> str:
    said = [message.text for message in played.messages if message.role == "assistant"]
    return said[-1].strip() if said else ""


def _message(row: RowResult) -> str:
    return row.failure.message if row.failure else ""
