"""From the rows of a benchmark to its table: one pure function, `summarise`.

What counts:
- A task that a fault of ours left without a score is never dropped in silence. Two figures stand
  beside each other: `skip` is over the scored rows alone, `zero` counts each missing row as zero
  in every dimension. `missing` says which of the two is the headline; `fail` gives none as long as
  a row is missing.
- An episode that ended without an answer is the agent's fault: its row is scored, not missing.
- A dimension's mean is over the rows to which it applies.
- Intervals are 95% percentile bootstraps over rows; the whole resamples each part on its own, and
  weighs the parts as the benchmark does.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.bench.choices import Missing
from cluster.bench.rows import RowResult
from cluster.bench.rules import SCORE, Rules
from cluster.report.stats import Estimate, estimate
from core.records import Failure

Floats = NDArray[np.float64]

RESAMPLES = 2000
_SEED = 20_260_301
OVERALL = "overall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table; every number is in [0, 1]."""

    name: str
    n: int
    """Rows, with and without a score."""
    failed: int
    """Rows that a fault of ours left without a score."""
    skip: Mapping[str, Estimate]
    """By dimension, and "score"; one that applies to no row is absent."""
    zero: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSummary:
    n: int
    scored: int
    """Rows with a score; where nobody judges, those that were drawn."""
    failed: int
    """Rows that a fault of ours left without one."""
    not_run: int
    """Rows without one because a stage was not run yet; in the figures as the failed ones."""
    causes: Mapping[str, int]
    """Of the missing scores, e.g. {"judge: HTTP 500": 3}."""
    fallbacks: int
    """Rows in which the raw prompt stood in for a missing answer."""
    flagged: int
    """Rows in which a tool was broken: their score may be low by no fault of the agent."""
    missing: Missing
    headline: Estimate | None
    """The score of the whole under `missing`; None when `fail` forbids one, or no row came to its
    end yet."""
    overall: Line
    groups: tuple[Line, ...]
    categories: tuple[Line, ...]
    episode: Mapping[str, Estimate]
    """Metrics of the episodes, over those that were played."""
    cost_usd: float
    seconds: float
    """Of all rows together, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """The rows of one line as numbers: [rows, dimensions], NaN where one does not apply."""

    grades: Floats
    scores: Floats


def summarise(
    rows: Sequence[RowResult], *, rules: Rules, missing: Missing, judges: bool = True
) -> BenchSummary:
    """`rows`: one per task, as far as each came. `judges`: there is a judge after the drawing."""
    lost = [row for row in rows if (row.judged if judges else row.drawn) is None]
    failed = sum(row.failure is not None for row in lost)
    categories = _by(rows, lambda row: row.item.task.meta.category)
    groups = _by(rows, lambda row: rules.groups.get(row.item.task.meta.category, "other"))
    groups = groups if rules.groups else {}
    overall = _overall(rows, parts=groups or categories, rules=rules)
    headline = overall.zero.get(SCORE) if missing == "zero" else overall.skip.get(SCORE)
    has_headline = judges and len(lost) - failed < len(rows) and not (missing == "fail" and lost)
    values = [row.played.values for row in rows if row.played and row.played.values]
    names = dict.fromkeys(name for one in values for name in one)
    return BenchSummary(
        n=len(rows),
        scored=len(rows) - len(lost),
        failed=failed,
        not_run=len(lost) - failed,
        causes=dict(Counter(cause_of(row) for row in lost).most_common()),
        fallbacks=sum(bool(row.played and row.played.fallback) for row in rows),
        flagged=sum(bool(row.played and row.played.tool_errors) for row in rows),
        missing=missing,
        headline=headline if has_headline else None,
        overall=overall,
        groups=tuple(_line(name, part, rules=rules) for name, part in sorted(groups.items())),
        categories=tuple(
            _line(name, part, rules=rules) for name, part in sorted(categories.items())
        ),
        episode={name: estimate([v[name] for v in values if name in v]) for name in names},
        cost_usd=sum(_cost(row) for row in rows),
        seconds=sum(s.seconds for row in rows for s in (row.agent, row.render, row.judge) if s),
    )


def cause_of(row: RowResult) -> str:
    """Why a row has no score, in a few words."""
    failure: Failure | None = row.failure
    if failure is not None:
        return f"{failure.stage}: {failure.error_type}"
    stage = "agent" if row.agent is None else "render" if row.render is None else "judge"
    return f"{stage}: not run"


def _by(
    rows: Sequence[RowResult], name_of: Callable[[RowResult], str]
) -> dict[str, list[RowResult]]:
    parts: dict[str, list[RowResult]] = {}
    for row in rows:
        parts.setdefault(name_of(row), []).append(row)
    return parts


def _line(name: str, rows: Sequence[RowResult], *, rules: Rules) -> Line:
    figures = {
        figure: _estimates([_numbers(rows, rules, zero=figure == "zero")], None, rules)
        for figure in ("skip", "zero")
    }
    failed = sum(row.failure is not None for row in rows)
    return Line(name=name, n=len(rows), failed=failed, **figures)


def _overall(
    rows: Sequence[RowResult], *, parts: Mapping[str, Sequence[RowResult]], rules: Rules
) -> Line:
    if rules.overall is None:
        return _line(OVERALL, rows, rules=rules)
    failed = sum(row.failure is not None for row in rows)
    figures = {}
    for figure in ("skip", "zero"):
        numbers = {
            name: _numbers(parts.get(name, ()), rules, zero=figure == "zero")
            for name in rules.overall
        }
        there = {name: one for name, one in numbers.items() if one.scores.size}
        complete = len(there) == len(numbers) or (there and not rules.needs_all_parts)
        weights = np.array([rules.overall[name] for name in there])
        if not rules.needs_all_parts and there:
            weights = weights / weights.sum()
        figures[figure] = _estimates(list(there.values()), weights, rules) if complete else {}
    return Line(name=OVERALL, n=len(rows), failed=failed, **figures)


def _numbers(rows: Sequence[RowResult], rules: Rules, *, zero: bool) -> _Scored:
    """The rows as numbers; a missing one is left out, or zero in every dimension."""
    found: list[Mapping[str, float | None]] = []
    for row in rows:
        if row.judged is not None:
            found.append(row.judged.grades)
        elif zero:
            found.append(dict.fromkeys(rules.dimensions, 0.0))
    grades = [
        [np.nan if (part := rules.part(one[name])) is None else part for name in rules.dimensions]
        for one in found
    ]
    return _Scored(
        grades=np.array(grades, dtype=np.float64).reshape(len(found), len(rules.dimensions)),
        scores=np.array([rules.row_score(one) for one in found], dtype=np.float64),
    )


def _estimates(
    parts: Sequence[_Scored], weights: Floats | None, rules: Rules
) -> dict[str, Estimate]:
    """Means with intervals of a weighted sum of parts, each part resampled on its own."""
    parts = [part for part in parts if part.scores.size]
    if not parts:
        return {}
    weights = np.ones(1) if weights is None else weights
    rng = np.random.default_rng(_SEED)
    points, draws = [], []
    for part in parts:
        n = part.scores.size
        once = np.ones((1, n))
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
        points.append(_means(part, once, rules))
        draws.append(_means(part, drawn, rules))
    return {
        name: found
        for column, name in enumerate((*rules.dimensions, SCORE))
        if (found := _estimate(points, draws, weights, parts, column)) is not None
    }


def _estimate(
    points: Sequence[Floats],
    draws: Sequence[Floats],
    weights: Floats,
    parts: Sequence[_Scored],
    column: int,
) -> Estimate | None:
    """A part to which the dimension never applies is left out; None when it is so for all."""
    known = [i for i, point in enumerate(points) if not np.isnan(point[0, column])]
    if not known:
        return None
    share = weights[known] * (weights.sum() / weights[known].sum())
    mean = float(share @ np.array([points[i][0, column] for i in known]))
    spread = share @ np.array([draws[i][:, column] for i in known])
    low, high = np.nanquantile(spread, (0.025, 0.975))
    grades = [parts[i].grades for i in known]
    has_column = column < grades[0].shape[1]
    n = sum(int(np.sum(~np.isnan(g[:, column]))) if has_column else len(g) for g in grades)
    return Estimate(mean=mean, ci95=(float(low), float(high)), n=n)


def _means(part: _Scored, counts: Floats, rules: Rules) -> Floats:
    """[draws, dimensions + 1]: the mean of each dimension and the score, per draw of rows.

    `counts` [draws, rows] says how often each draw holds each row.
    """
    applies = ~np.isnan(part.grades)
    totals = counts @ np.nan_to_num(part.grades)
    numbers = counts @ applies.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals / numbers
    if rules.line_of_means:
        columns = {name: means[:, i] for i, name in enumerate(rules.dimensions)}
        scores = rules.scores_of_means(columns)
    else:
        scores = counts @ part.scores / part.scores.size
    return np.column_stack([means, scores])


def _cost(row: RowResult) -> float:
    outcomes = (row.played, row.drawn, row.judged)
    return sum(outcome.cost_usd for outcome in outcomes if outcome is not None)
