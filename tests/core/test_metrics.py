import math

import pytest

from core.metrics import Metrics, Reduce, p50_and_p95


def test_each_reduction_reduces_as_named() -> None:
    metrics = Metrics()
    for value in (1.0, 4.0, 2.0):
        metrics.add("mean", value)
        metrics.add("sum", value, Reduce.SUM)
        metrics.add("max", value, Reduce.MAX)
        metrics.add("last", value, Reduce.LAST)

    assert metrics.flush() == {"mean": 7 / 3, "sum": 7.0, "max": 4.0, "last": 2.0}


def test_a_flush_empties_the_collector() -> None:
    metrics = Metrics()
    metrics.add("a", 1.0, Reduce.SUM)
    metrics.flush()

    assert metrics.flush() == {}
    metrics.add("a", 5.0, Reduce.SUM)
    assert metrics.flush() == {"a": 5.0}


def test_a_name_has_one_reduction() -> None:
    metrics = Metrics()
    metrics.add("a", 1.0)

    with pytest.raises(ValueError, match="metric a is reduced by mean, not by sum"):
        metrics.add("a", 1.0, Reduce.SUM)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="metric a is"):
        Metrics().add("a", value)


def test_percentiles_are_of_what_was_measured_and_nothing_else() -> None:
    assert p50_and_p95(()) == (0.0, 0.0)
    assert p50_and_p95((4.0,)) == (4.0, 4.0)
    assert p50_and_p95([float(n) for n in range(101)]) == (50.0, 95.0)
