"""What summary.json holds, drawn for a person on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def draw_evaluation(tree: Mapping[str, Any]) -> RenderableType:
    """The table, what is missing and why, and what this run did."""
    table = Table("part", "tasks", "failed", "scored only", "missing as zero", title=_title(tree))
    lines = {"overall": tree["overall"], **tree["groups"], **tree["categories"]}
    for name, line in lines.items():
        scores = (_number(line[figure].get("score")) for figure in ("skip", "zero"))
        table.add_row(name, str(line["n"]), str(line["failed"]), *scores)
    notes = [f"{count} without a score, {cause}" for cause, count in sorted(tree["causes"].items())]
    if tree["fallbacks"]:
        notes.append(f"{tree['fallbacks']} times the raw prompt stood in for a missing answer")
    if tree["flagged"]:
        notes.append(f"{tree['flagged']} tasks met a broken tool")
    return Group(table, *(Text(note) for note in notes), Text(_did(tree["this_run"])))


def _title(tree: Mapping[str, Any]) -> str:
    edition = f" {tree['edition']}" if tree["edition"] else ""
    return f"{tree['benchmark']}{edition}: {tree['scored']} of {tree['n']} tasks scored"


def _number(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "none"
    low, high = one["ci95"]
    return f"{one['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _did(run: Mapping[str, Any]) -> str:
    parts = [
        f"{stage}: {run['made'].get(stage, 0)} made, {run['reused'].get(stage, 0)} kept"
        for stage in run["stages"]
    ]
    return "; ".join(parts)
