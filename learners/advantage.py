"""A group's scores -> one advantage per member. Pure.

In: a `Group`. Out: the advantage of every scored member by its rollout id, or the `NoSignal`
that says why the group teaches nothing. Members that failed or are masked are in no statistic.
"""

import statistics
from collections.abc import Mapping
from enum import StrEnum

from core.records import Group, RolloutId, Score

EPSILON = 1e-6
"""Added to the standard deviation to keep the quotient finite; a smaller spread is none."""


class NoSignal(StrEnum):
    """Why a group has no advantages."""

    TOO_FEW = "too_few"
    """Fewer than two scored members."""
    NO_SPREAD = "no_spread"
    """All scores are equal."""


def group_advantages(group: Group, *, use_std: bool) -> Mapping[RolloutId, float] | NoSignal:
    """Group-relative advantages over `group.scored`.

    use_std True: (r - mean) / (std + eps) with the sample standard deviation, as GRPO
    (arXiv 2402.03300, section 4.1.2; arXiv 2603.28767, section 3.3). False: r - mean, as Dr.GRPO
    (arXiv 2503.20783), where an easy or hard task is not blown up by its small spread.
    """
    rewards = {
        member.rollout_id: member.outcome.value
        for member in group.scored
        if isinstance(member.outcome, Score)
    }
    if len(rewards) < 2:
        return NoSignal.TOO_FEW
    values = list(rewards.values())
    if max(values) - min(values) < EPSILON:
        return NoSignal.NO_SPREAD
    mean = statistics.fmean(values)
    scale = statistics.stdev(values) + EPSILON if use_std else 1.0
    return {rollout_id: (value - mean) / scale for rollout_id, value in rewards.items()}
