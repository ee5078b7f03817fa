import math
from dataclasses import replace

import pytest

from core.config import build_config
from core.records import Group, Score, Trajectory
from learners.advantage import NoSignal, advantages_of, group_advantages, whiten
from tests.builders import (
    make_failure,
    make_group,
    make_rollout_id,
    make_score,
    make_score_part,
    make_trajectory,
)


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


def two_parts(value: float, *parts: float | None) -> Score:
    names = ("image", "text")
    weights = (0.75, 0.25)
    return make_score(
        value,
        parts=[
            make_score_part(name, part, weight=weight)
            for name, part, weight in zip(names, parts, weights, strict=True)
        ],
    )


def per_part(group: Group) -> list[float]:
    advantages = group_advantages(group, use_std=True, normalise="per_part")
    assert not isinstance(advantages, NoSignal)
    return [advantages[member.rollout_id] for member in group.scored]


def test_each_part_is_normalised_by_itself_and_weighted() -> None:
    # image: -1, 0, 1 by its own std of 0.5; text: 1, 0, -1 by its own std of 0.01
    scores = [two_parts(0.1, 0.0, 0.52), two_parts(0.5, 0.5, 0.51), two_parts(0.9, 1.0, 0.5)]
    assert per_part(make_group(scores)) == pytest.approx([-0.5, 0.0, 0.5], abs=1e-4)


def test_a_part_that_does_not_apply_adds_nothing_and_a_floored_member_counts_as_zero() -> None:
    # image 1, 0, 0 -> std 1 / sqrt 3; text 1, -, 0 -> +-1 / sqrt 2
    scores = [two_parts(1.0, 1.0, 1.0), two_parts(0.0, 0.0, None), make_score(0.0, parts=[])]
    third, half = (2 / 3) * math.sqrt(3), 0.5 * math.sqrt(2)
    assert per_part(make_group(scores)) == pytest.approx(
        [0.75 * third + 0.25 * half, -0.75 * third / 2, -0.75 * third / 2 - 0.25 * half], abs=1e-4
    )


def test_parts_without_spread_give_no_signal() -> None:
    group = make_group([two_parts(0.5, 0.5, 0.5)] * 2)
    assert group_advantages(group, use_std=True, normalise="per_part") is NoSignal.NO_SPREAD


def test_a_penalty_is_added_before_the_statistics() -> None:
    group = make_group([0.5, 0.5])
    long_one = group.members[1].rollout_id
    advantages = group_advantages(
        group, use_std=False, penalty=lambda member: -1.0 * (member.rollout_id == long_one)
    )
    assert advantages == {group.members[0].rollout_id: 0.5, long_one: -0.5}


def test_a_penalty_is_one_part_more_where_parts_are_normalised_apart() -> None:
    # image and text do not spread; the penalty does: 0 and -0.4 -> +-1 / sqrt 2, weight 1
    group = make_group([two_parts(0.5, 0.5, 0.5)] * 2)
    long_one = group.members[1].rollout_id
    advantages = group_advantages(
        group,
        use_std=True,
        normalise="per_part",
        penalty=lambda member: -0.4 * (member.rollout_id == long_one),
    )
    assert not isinstance(advantages, NoSignal)
    assert advantages[long_one] == pytest.approx(-math.sqrt(0.5), abs=1e-4)


def test_rounding_is_no_spread() -> None:
    group = make_group([0.3, 0.1 + 0.2])
    assert group_advantages(group, use_std=True) is NoSignal.NO_SPREAD


def test_a_recipe_prices_the_whole_length_of_an_episode() -> None:
    """limit 100, buffer 40: 60 tokens are free, 80 cost 0.5, 105 cost 1."""
    config = build_config(
        {
            "rollout": {"max_context": 100},
            "learner": {"overlong_buffer": 40, "advantage_std": False},
        }
    )
    group = make_group([0.5, 0.5, 0.5])
    lengths = (60, 80, 105)
    members = [
        replace(member, trajectory=trajectory_of(length))
        for member, length in zip(group.members, lengths, strict=True)
    ]
    advantages = advantages_of(replace(group, members=tuple(members)), config=config)
    assert not isinstance(advantages, NoSignal)
    assert list(advantages.values()) == pytest.approx([0.5, 0.0, -0.5])

    free = build_config({"rollout": {"max_context": 100}})
    assert advantages_of(group, config=free) is NoSignal.NO_SPREAD


def trajectory_of(length: int) -> Trajectory:
    """Of so many tokens in all: 3 of the prompt, 3 sampled, 2 of a tool, the rest sampled."""
    found = make_trajectory(completions=[(10, 11, 2), (12,) * (length - 8)])
    last = found.turns[-1]
    assert len(last.prompt_ids) + len(last.completion.token_ids) == length
    return found


def test_a_recipe_chooses_what_is_normalised() -> None:
    group = make_group([two_parts(0.5, 0.0, 1.0), two_parts(0.5, 1.0, 0.0)])
    assert advantages_of(group, config=build_config({})) is NoSignal.NO_SPREAD
    config = build_config({"reward": {"normalise": "per_part"}})
    assert advantages_of(group, config=config) == group_advantages(
        group, use_std=True, normalise="per_part"
    )


def test_a_whitened_batch_has_mean_zero_and_deviation_one() -> None:
    whitened = whiten({make_rollout_id(index=n): value for n, value in enumerate([1.0, 2.0, 3.0])})
    assert list(whitened.values()) == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)
