"""Is run B better than run A? Paired over the tasks that both evaluated, per metric and group.

In: two `RunScores`. Out: a `Comparison` (pure arithmetic), compare.json for machines and
compare.html with forest plots. Refuses runs that share no task; says in words where the two were
not measured alike, because then a difference may be the judge's and not the agent's.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.report.charts import Difference, Sign, forest_chart
from cluster.report.pages import render_page
from cluster.report.scores import RunScores, TaskScore
from cluster.report.stats import Estimate, paired_difference
from core.errors import ConfigError
from core.files import write_atomic, write_json_atomic

COMPARE_JSON = "compare.json"
COMPARE_PAGE = "compare.html"
NOT_A_SCORE = frozenset({"tool_calls", "pick_chance"})
"""Metrics of which more is not better: in the tables, without colour, and in no picture."""

MIN_TASKS = 6
"""Fewer tasks show nothing, whatever their interval: five differences are all of one sign by
chance once in sixteen times (2 / 2^5), six once in 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One metric over the shared tasks of one group, or over all of them."""

    group: str
    """"" is all shared tasks."""
    metric: str
    mean_a: float
    mean_b: float
    difference: Estimate
    """B - A over the tasks where the metric applies in both runs."""
    higher: int
    """Tasks where B has more than A."""
    lower: int

    @property
    def sign(self) -> Sign:
        """Is B better or worse than A, or is neither shown?"""
        low, high = self.difference.ci95
        if self.metric in NOT_A_SCORE or self.difference.n < MIN_TASKS:
            return ""
        return "good" if low > 0 else "bad" if high < 0 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    a: str
    b: str
    headline: str
    num_shared: int
    only_a: int
    """Tasks that B has no score for; they count nowhere."""
    only_b: int
    failed_a: int
    """Tasks that a fault of ours left without a score."""
    failed_b: int
    warnings: tuple[str, ...]
    lines: tuple[Line, ...]

    def line(self, metric: str, group: str = "") -> Line | None:
        found = (line for line in self.lines if (line.metric, line.group) == (metric, group))
        return next(found, None)


def compare(a: RunScores, b: RunScores) -> Comparison:
    """Raises ConfigError when no task was scored in both."""
    of_a = {(task.task_id, task.prompt): task for task in a.tasks}
    pairs = [(of_a[key], task) for task in b.tasks if (key := (task.task_id, task.prompt)) in of_a]
    if not pairs:
        raise ConfigError(
            f"{a.name} ({len(a.tasks)} tasks) and {b.name} ({len(b.tasks)} tasks) share no scored "
            "task; compare two evaluations of the same benchmark"
        )
    if a.name == b.name:
        a, b = replace(a, name=f"{a.name} (A)"), replace(b, name=f"{b.name} (B)")
    metrics = _in_order([task.values for pair in pairs for task in pair])
    groups = sorted({group for _, task in pairs for group in task.groups})
    if len(groups) == 1:
        groups = []  # it would say the same as the whole
    lines = [_line(pairs, metric, group) for group in ("", *groups) for metric in metrics]
    return Comparison(
        a=a.name,
        b=b.name,
        headline=b.headline,
        num_shared=len(pairs),
        only_a=len(a.tasks) - len(pairs),
        only_b=len(b.tasks) - len(pairs),
        failed_a=a.num_failed,
        failed_b=b.num_failed,
        warnings=tuple(_warnings(a, b, num_shared=len(pairs))),
        lines=tuple(line for line in lines if line is not None),
    )


def comparison_json(found: Comparison) -> dict[str, Any]:
    """{"overall": {metric: ..}, "groups": {group: {metric: ..}}}, and what they are over."""
    groups = dict.fromkeys(line.group for line in found.lines if line.group)
    return {
        "a": found.a,
        "b": found.b,
        "headline": found.headline,
        "shared_tasks": found.num_shared,
        "only_in_a": found.only_a,
        "only_in_b": found.only_b,
        "failed_in_a": found.failed_a,
        "failed_in_b": found.failed_b,
        "warnings": list(found.warnings),
        "overall": _lines_json(found, ""),
        "groups": {group: _lines_json(found, group) for group in groups},
    }


def write_comparison(found: Comparison, folder: Path) -> Path:
    """compare.json and compare.html; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / COMPARE_JSON, comparison_json(found))
    page = render_page(
        "compare.html.j2",
        found=found,
        verdict=verdict(found),
        charts=_charts(found),
        groups=tuple(dict.fromkeys(line.group for line in found.lines)),
        min_tasks=MIN_TASKS,
    )
    write_atomic(folder / COMPARE_PAGE, page.encode())
    return folder / COMPARE_PAGE


def verdict(found: Comparison) -> str:
    """The headline metric in one sentence."""
    line = found.line(found.headline)
    if line is None:
        return f"Neither run has a value of {found.headline} on the shared tasks."
    low, high = line.difference.ci95
    numbers = f"{line.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    match line.sign:
        case "good":
            what = f"{found.b} is better than {found.a}"
        case "bad":
            what = f"{found.b} is worse than {found.a}"
        case _:
            what = f"No difference between {found.a} and {found.b} is shown"
    return f"{what}: {found.headline} {numbers} over {line.difference.n} shared tasks."


def _line(pairs: Sequence[tuple[TaskScore, TaskScore]], metric: str, group: str) -> Line | None:
    values = [
        (a.values[metric], b.values[metric])
        for a, b in pairs
        if (not group or group in b.groups) and metric in a.values and metric in b.values
    ]
    if not values:
        return None
    of_a, of_b = zip(*values, strict=True)
    return Line(
        group=group,
        metric=metric,
        mean_a=sum(of_a) / len(of_a),
        mean_b=sum(of_b) / len(of_b),
        difference=paired_difference(of_a, of_b),
        higher=sum(b > a for a, b in values),
        lower=sum(b < a for a, b in values),
    )


def _warnings(a: RunScores, b: RunScores, *, num_shared: int) -> list[str]:
    found = [
        f"The {name} differs: {_short(_said(a, name))} for {a.name}, "
        f"{_short(_said(b, name))} for {b.name}."
        for name in dict.fromkeys([*a.made_with, *b.made_with])
        if _said(a, name) != _said(b, name)
    ]
    for run in (a, b):
        if run.num_failed:
            found.append(f"{_tasks(run.num_failed)} of {run.name} failed by a fault of ours.")
        if (left := len(run.tasks) - num_shared) > 0:
            found.append(f"{run.name} alone has a score for {_tasks(left)}.")
    return found


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _said(run: RunScores, name: str) -> str:
    return run.made_with.get(name) or "not known"


def _short(said: str) -> str:
    """Digests by their first digits."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", said)


def _in_order(values: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for one in values for name in one))


def _lines_json(found: Comparison, group: str) -> dict[str, Any]:
    return {
        line.metric: {
            "a": round(line.mean_a, 4),
            "b": round(line.mean_b, 4),
            "difference": round(line.difference.mean, 4),
            "ci95": [round(bound, 4) for bound in line.difference.ci95],
            "n": line.difference.n,
            "higher": line.higher,
            "lower": line.lower,
        }
        for line in found.lines
        if line.group == group
    }


def _charts(found: Comparison) -> list[str]:
    shown = [line for line in found.lines if line.metric not in NOT_A_SCORE]
    overall = [line for line in shown if not line.group]
    by_group = [line for line in shown if line.group and line.metric == found.headline]
    charts = [
        forest_chart("All shared tasks, by metric", [_bar(one, one.metric) for one in overall])
    ]
    if by_group:
        whole = [line for line in overall if line.metric == found.headline]
        rows = [_bar(one, one.group or "all tasks") for one in (*whole, *by_group)]
        charts.append(forest_chart(f"{found.headline.capitalize()}, by kind of task", rows))
    return charts


def _bar(line: Line, label: str) -> Difference:
    low, high = line.difference.ci95
    return Difference(
        label=label.replace("_", " "),
        mean=line.difference.mean,
        low=low,
        high=high,
        n=line.difference.n,
        sign=line.sign,
    )
