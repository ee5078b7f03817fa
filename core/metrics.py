"""Metrics with their reductions: what is logged many times becomes one number in a stated way."""

import math
from collections import defaultdict
from collections.abc import Collection
from enum import StrEnum
from statistics import quantiles


class Reduce(StrEnum):
    MEAN = "mean"
    SUM = "sum"
    MAX = "max"
    LAST = "last"


class Metrics:
    """Collects values under slash-separated names until `flush`.

    Example:
        metrics.add("reward/mean", 0.5); metrics.add("reward/mean", 1.0)
        metrics.add("failures/judge", 1, Reduce.SUM)
        metrics.flush() == {"reward/mean": 0.75, "failures/judge": 1.0}
    """

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._reductions: dict[str, Reduce] = {}

    def add(self, name: str, value: float, reduce: Reduce = Reduce.MEAN) -> None:
        """Raises ValueError when a name is used with two reductions, or a value is not finite."""
        known = self._reductions.setdefault(name, reduce)
        if known is not reduce:
            raise ValueError(f"metric {name} is reduced by {known}, not by {reduce}")
        if not math.isfinite(value):
            raise ValueError(f"metric {name} is {value}")
        self._values[name].append(float(value))

    def flush(self) -> dict[str, float]:
        """All metrics reduced, and an empty collector."""
        flushed = {
            name: _reduce(vals, self._reductions[name]) for name, vals in self._values.items()
        }
        self._values.clear()
        return flushed


def _reduce(values: list[float], reduce: Reduce) -> float:
    match reduce:
        case Reduce.MEAN:
            return math.fsum(values) / len(values)
        case Reduce.SUM:
            return math.fsum(values)
        case Reduce.MAX:
            return max(values)
        case Reduce.LAST:
            return values[-1]


def p50_and_p95(values: Collection[float]) -> tuple[float, float]:
    """Of one value it is both; of none they are 0."""
    if len(values) < 2:
        return (sum(values), sum(values))
    percent = quantiles(values, n=100, method="inclusive")
    return percent[49], percent[94]
