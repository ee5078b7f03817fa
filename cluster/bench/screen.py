"""What summary.json holds, drawn for a person on a terminal of 80 columns."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def draw_evaluation(tree: Mapping[str, Any]) -> RenderableType:
    """The table, in hundredths; what is missing and why; what this run did."""
    has_scores = tree["scored"] and tree["benchmark"] != "prompts"
    table = _table(tree) if has_scores else Text(_title(tree), "bold")
    notes = [f"{count} without a score, {cause}" for cause, count in sorted(tree["causes"].items())]
    if tree["fallbacks"]:
        notes.append(f"{tree['fallbacks']} times the raw prompt stood in for a missing answer")
    if tree["flagged"]:
        notes.append(f"{tree['flagged']} tasks met a broken tool")
    return Group(table, *(Text(note) for note in notes), Text(_did(tree["this_run"])))


def _table(tree: Mapping[str, Any]) -> Table:
    whole = tree["scored"] == tree["n"]
    figures = {"skip": "score"} if whole else {"skip": "scored only", "zero": "as 0"}
    table = Table(box=box.SIMPLE, title=_title(tree), caption="hundredths, 95% intervals")
    table.add_column("part")
    for heading in ("tasks", "failed", *figures.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    lines = {"overall": tree["overall"], **tree["groups"], **tree["categories"]}
    for name, line in lines.items():
        scores = (_number(line[figure].get("score")) for figure in figures)
        table.add_row(Text(name.replace("_", " ")), str(line["n"]), str(line["failed"]), *scores)
    return table


def _title(tree: Mapping[str, Any]) -> str:
    done = "drawn" if tree["benchmark"] == "prompts" else "scored"
    edition = f" {tree['edition']}" if tree["edition"] else ""
    return f"{tree['benchmark']}{edition}: {tree['scored']} of {tree['n']} tasks {done}"


def _number(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "none"
    low, high = one["ci95"]
    interval = f" [{100 * low:.1f}, {100 * high:.1f}]" if one["n"] > 1 else ""
    return f"{100 * one['mean']:.1f}{interval}"


def _did(run: Mapping[str, Any]) -> str:
    parts = [
        f"{stage}: {run['made'].get(stage, 0)} made, {run['reused'].get(stage, 0)} kept"
        for stage in run["stages"]
    ]
    return "; ".join(parts)
