"""Bootstrap intervals: known cases, and coverage of the truth."""

import numpy as np
import pytest

from cluster.report.stats import estimate, paired_difference


def test_equal_values_have_an_interval_of_no_width() -> None:
    result = estimate([0.5] * 10)
    assert (result.mean, result.ci95, result.n) == (0.5, (0.5, 0.5), 10)


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = estimate(values.tolist()).ci95
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_pairing_removes_the_spread_between_tasks() -> None:
    before = np.linspace(0, 1, 50)
    result = paired_difference(before.tolist(), (before + 0.1).tolist())
    assert result.mean == pytest.approx(0.1)
    assert result.ci95 == pytest.approx((0.1, 0.1))


def test_unmatched_and_empty_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="1 values before but 2 after"):
        paired_difference([0.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="no values"):
        estimate([])
