"""Means with 95% bootstrap intervals, and paired differences over the same tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_BOOTSTRAP_SEED = 20_260_301


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over `n` tasks with the percentile bootstrap's 95% interval."""

    mean: float
    ci95: tuple[float, float]
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Bootstrap over tasks (resampled with replacement). Raises ValueError without values."""
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("no values to estimate from")
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    means = data[rng.integers(0, data.size, size=(RESAMPLES, data.size))].mean(axis=1)
    return Estimate(mean=float(data.mean()), ci95=_interval(means), n=int(data.size))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """Mean of after - before, tasks paired by position. Raises ValueError when lengths differ."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before but {len(after)} after: tasks must match")
    return estimate(np.subtract(after, before).tolist())


def _interval(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
