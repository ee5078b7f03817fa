"""A group's scores -> one advantage per member. Pure.

In: a `Group`. Out: the advantage of every scored member by its rollout id, or the `NoSignal`
that says why the group teaches nothing. Members that failed or are masked are in no statistic.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Literal

from core.config import Config
from core.records import Group, Member, RolloutId, Score, ScorePart
from learners.objectives.overlong import overlong_penalty

EPSILON = 1e-6
"""Added to the standard deviation to keep the quotient finite; a smaller spread is none."""

Normalise = Literal["blended", "per_part"]


class NoSignal(StrEnum):
    """Why a group has no advantages."""

    TOO_FEW = "too_few"
    """Fewer than two scored members."""
    NO_SPREAD = "no_spread"
    """All scores are equal."""


def advantages_of(group: Group, *, config: Config) -> Mapping[RolloutId, float] | NoSignal:
    """`group_advantages` as a recipe wants them."""
    return group_advantages(
        group,
        use_std=config.learner.advantage_std,
        normalise=config.reward.normalise,
        penalty=_overlong_penalty(config),
    )


def group_advantages(
    group: Group,
    *,
    use_std: bool,
    normalise: Normalise = "blended",
    penalty: Callable[[Member], float] | None = None,
) -> Mapping[RolloutId, float] | NoSignal:
    """Group-relative advantages over `group.scored`.

    use_std True: (r - mean) / (std + eps) with the sample standard deviation, as GRPO
    (arXiv 2402.03300, section 4.1.2; arXiv 2603.28767, section 3.3). False: r - mean, as Dr.GRPO
    (arXiv 2503.20783), where an easy or hard task is not blown up by its small spread.

    normalise "per_part": every part of the score is normalised by itself, then they are summed by
    their weights (GDPO, arXiv 2601.05242): a part with a small spread is not drowned by another. A
    part that does not apply to a member adds 0 to it; a member without parts was floored for its
    own fault, and counts as 0 in each. `penalty` is added to the blended value, or is one part
    more of weight 1.
    """
    scored = group.scored
    if len(scored) < 2:
        return NoSignal.TOO_FEW
    scores = [member.outcome for member in scored if isinstance(member.outcome, Score)]
    penalties = [penalty(member) if penalty else 0.0 for member in scored]
    if normalise == "blended":
        rewards = [score.value + extra for score, extra in zip(scores, penalties, strict=True)]
        columns: list[tuple[float, Sequence[float | None]]] = [(1.0, rewards)]
    else:
        columns = [*_columns(scores), (1.0, penalties)]
    total = [0.0] * len(scored)
    for weight, column in columns:
        for number, value in enumerate(_normalised(column, use_std=use_std)):
            total[number] += weight * value
    if not any(total):
        return NoSignal.NO_SPREAD
    return {member.rollout_id: value for member, value in zip(scored, total, strict=True)}


def whiten(advantages: Mapping[RolloutId, float]) -> Mapping[RolloutId, float]:
    """Mean 0 and standard deviation 1 over a whole batch: GDPO's last step, which keeps the size
    of an update apart from the number of parts."""
    if len(advantages) < 2:
        return advantages
    mean = statistics.fmean(advantages.values())
    scale = statistics.stdev(advantages.values()) + EPSILON
    return {rollout_id: (value - mean) / scale for rollout_id, value in advantages.items()}


def _columns(scores: Sequence[Score]) -> list[tuple[float, Sequence[float | None]]]:
    """Per part: its mean weight where it applies, and every member's value of it."""
    parts = [{part.name: part for part in score.parts} for score in scores]
    columns: list[tuple[float, Sequence[float | None]]] = []
    for name in dict.fromkeys(name for own in parts for name in own):
        applying = [own[name] for own in parts if name in own and own[name].value is not None]
        if applying:
            weight = statistics.fmean(part.weight for part in applying)
            columns.append((weight, [_value(own, name) for own in parts]))
    return columns


def _value(parts: Mapping[str, ScorePart], name: str) -> float | None:
    if not parts:
        return 0.0
    return parts[name].value if name in parts else None


def _normalised(column: Sequence[float | None], *, use_std: bool) -> list[float]:
    """0 for a member whose value is None, and for all when the values do not spread."""
    values = [value for value in column if value is not None]
    if len(values) < 2 or max(values) - min(values) < EPSILON:
        return [0.0] * len(column)
    mean = statistics.fmean(values)
    scale = statistics.stdev(values) + EPSILON if use_std else 1.0
    return [0.0 if value is None else (value - mean) / scale for value in column]


def _overlong_penalty(config: Config) -> Callable[[Member], float] | None:
    buffer, limit = config.learner.overlong_buffer, config.rollout.max_context
    if buffer is None:
        return None

    def penalty(member: Member) -> float:
        if member.trajectory is None:
            return 0.0
        last = member.trajectory.turns[-1]
        length = len(last.prompt_ids) + len(last.completion.token_ids)
        return overlong_penalty(length, limit=limit, buffer=buffer)

    return penalty
