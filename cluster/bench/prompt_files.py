"""Pictures for benchmarks that are scored by their own tools, where those tools look for them.

AgentGen-Bench   images/{bench_id}.png and predictions.jsonl
GenEval          {number}/samples/00000.png and {number}/metadata.jsonl
"""

import json
from collections.abc import Sequence
from pathlib import Path

from cluster.bench.pictures import file_stem, write_png
from cluster.bench.rows import RowResult
from core.files import write_atomic
from core.protocols import ImageStore
from envs.benchmarks import PromptFormat


def write_prompt_files(
    rows: Sequence[RowResult],
    folder: Path,
    *,
    images: ImageStore,
    format: PromptFormat,
) -> None:
    """Only for tasks that were drawn."""
    drawn = [row for row in rows if row.drawn is not None]
    if format == "agentgen":
        _write_agentgen(drawn, folder, images=images)
        return
    for row in drawn:
        assert row.drawn is not None
        place = folder / row.item.task.task_id
        write_png(row.drawn.image, place / "samples" / "00000.png", images=images)
        write_atomic(place / "metadata.jsonl", row.item.source.encode())


def _write_agentgen(rows: Sequence[RowResult], folder: Path, *, images: ImageStore) -> None:
    lines = []
    for row in rows:
        assert row.drawn is not None
        path = f"images/{file_stem(row.item.task.task_id)}.png"
        write_png(row.drawn.image, folder / path, images=images)
        names = {"bench_id": row.item.row_id, "generator": row.drawn.model, "image_path": path}
        lines.append(json.dumps(names, ensure_ascii=False) + "\n")
    write_atomic(folder / "predictions.jsonl", "".join(lines).encode())
