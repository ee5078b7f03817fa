"""WISE results in the shapes that its own tools write and read (docs/benchmarks.md).

images/{prompt_id}.png
{name}_full_results.json     one row per task that was drawn; a failed verdict says so in its text
{name}_scores_results.jsonl  one row per score. A failed row is absent: the benchmark's own
                             calculation then refuses, instead of averaging over fewer rows

`name` is that of the benchmark's three files: several of the six categories share one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.bench.pictures import file_stem, write_png
from cluster.bench.rows import Judged, RowResult
from cluster.bench.summary import cause_of
from core.files import write_atomic, write_json_atomic
from core.protocols import ImageStore

FILE_NAMES = {
    "culture": "cultural_common_sense",
    "time": "spatio-temporal_reasoning",
    "space": "spatio-temporal_reasoning",
    "biology": "natural_science",
    "physics": "natural_science",
    "chemistry": "natural_science",
}


def write_wise_files(rows: Sequence[RowResult], folder: Path, *, images: ImageStore) -> None:
    by_file: dict[str, list[RowResult]] = {}
    for row in rows:
        if row.drawn is not None:
            path = folder / "images" / f"{file_stem(row.item.task.task_id)}.png"
            write_png(row.drawn.image, path, images=images)
            by_file.setdefault(FILE_NAMES[row.item.task.meta.category], []).append(row)
    for name, part in by_file.items():
        write_json_atomic(folder / f"{name}_full_results.json", [_full_row(row) for row in part])
        lines = [json.dumps(_score_row(row), ensure_ascii=False) for row in part if row.judged]
        text = "".join(f"{line}\n" for line in lines)
        write_atomic(folder / f"{name}_scores_results.jsonl", text.encode())


def _full_row(row: RowResult) -> dict[str, Any]:
    return {
        "prompt_id": row.item.row_id,
        "prompt": row.item.task.prompt,
        "key": row.item.task.rubric,
        "image_path": f"images/{file_stem(row.item.task.task_id)}.png",
        "evaluation": _lines(row.judged) if row.judged else f"Evaluation failed: {cause_of(row)}",
    }


def _score_row(row: RowResult) -> dict[str, Any]:
    assert row.judged is not None
    return {
        "prompt_id": row.item.row_id,
        "Subcategory": row.item.subcategory,
        **{name: int(grade or 0) for name, grade in row.judged.grades.items()},
    }


def _lines(judged: Judged) -> str:
    """As the benchmark's judge says it: "Consistency: 2"."""
    return "\n".join(
        f"{name.replace('_', ' ').title()}: {int(grade or 0)}"
        for name, grade in judged.grades.items()
    )
