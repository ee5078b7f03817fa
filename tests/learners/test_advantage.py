from dataclasses import replace

import pytest

from core.records import Group
from learners.advantage import NoSignal, group_advantages
from tests.builders import make_failure, make_group


def values_of(group: Group, *, use_std: bool = True) -> list[float]:
    advantages = group_advantages(group, use_std=use_std)
    assert not isinstance(advantages, NoSignal)
    return [advantages[member.rollout_id] for member in group.scored]


def test_grpo_divides_by_the_sample_standard_deviation() -> None:
    # mean 0.5, squared distances 0.25 + 0 + 0.25 over 2 -> std 0.5
    values = values_of(make_group([0.0, 0.5, 1.0]))
    assert values == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)


def test_dr_grpo_only_subtracts_the_mean() -> None:
    assert values_of(make_group([0.25, 0.75]), use_std=False) == pytest.approx([-0.25, 0.25])


def test_failures_and_masked_members_are_in_no_statistic() -> None:
    group = make_group([0.0, make_failure(), 1.0, 0.9])
    members = [*group.members[:3], replace(group.members[3], masked=True)]
    short = replace(group, members=tuple(members))
    advantages = group_advantages(short, use_std=False)
    assert advantages == {
        group.members[0].rollout_id: pytest.approx(-0.5),
        group.members[2].rollout_id: pytest.approx(0.5),
    }


def test_a_floored_score_of_zero_is_a_real_score() -> None:
    assert values_of(make_group([0.0, 1.0]), use_std=False)[0] == pytest.approx(-0.5)


def test_one_scored_member_gives_no_signal() -> None:
    group = make_group([0.3, make_failure(), make_failure()])
    assert group_advantages(group, use_std=True) is NoSignal.TOO_FEW


def test_equal_scores_give_no_signal() -> None:
    assert group_advantages(make_group([0.3, 0.3, 0.3]), use_std=True) is NoSignal.NO_SPREAD
