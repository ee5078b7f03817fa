"""Numbers of one training step, from the groups that ended in it.

Rewards are means over all scored members of all groups that ended, filtered ones too: the mean
over consumed groups alone would leave out what the policy does always well or always badly.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean, pstdev

from cluster.frontier import Ending
from cluster.members import oldest_version
from core.metrics import Metrics, Reduce
from core.records import Answer, Failure, Group, Member, Score, Stage, StopReason, Trajectory
from rewards.reward import verdicts_of


def step_metrics(
    ended: Sequence[tuple[Group, Ending]], *, consumed_at_version: int, lost_learners: int = 0
) -> dict[str, float]:
    """Means over members; sums of failures and of endings."""
    metrics = Metrics()
    for stage in Stage:
        metrics.add(f"failures/{stage}", 0, Reduce.SUM)
    metrics.add(f"failures/{Stage.LEARNER}", lost_learners, Reduce.SUM)
    metrics.add("staleness/of_0", 0, Reduce.SUM)
    for group, ending in ended:
        for kind in Ending:
            metrics.add(f"groups/{kind}", kind is ending, Reduce.SUM)
        _add_group(metrics, group)
        if ending is Ending.CONSUMED:
            for trajectory in _trajectories(group.scored):
                oldest = oldest_version(trajectory)
                if oldest is not None:
                    staleness = consumed_at_version - oldest
                    metrics.add("staleness/mean", staleness)
                    metrics.add("staleness/max", staleness, Reduce.MAX)
                    metrics.add(f"staleness/of_{staleness}", 1, Reduce.SUM)
    return metrics.flush()


def _add_group(metrics: Metrics, group: Group) -> None:
    values = [m.outcome.value for m in group.scored if isinstance(m.outcome, Score)]
    if values:
        metrics.add("reward/group_mean", fmean(values))
        metrics.add("reward/group_std", pstdev(values))
        metrics.add("groups/with_spread", group.has_spread)
    for member in group.members:
        if isinstance(member.outcome, Failure):
            metrics.add(f"failures/{member.outcome.stage}", 1, Reduce.SUM)
            continue
        metrics.add("members/masked", member.masked)
        metrics.add("members/attempts", member.rollout_id.attempt + 1)
        _add_score(metrics, member.outcome, masked=member.masked)
        if member.rendered is not None:
            metrics.add("render/cached", member.rendered.cached)
            metrics.add("render/dropped_references", member.rendered.dropped_references)
    for trajectory in _trajectories(group.members):
        _add_trajectory(metrics, trajectory)


def _add_score(metrics: Metrics, score: Score, *, masked: bool) -> None:
    if not masked:
        metrics.add("reward/mean", score.value)
        metrics.add("members/scored", 1, Reduce.SUM)
    for part in score.parts:
        if part.value is not None:
            metrics.add(f"reward/{part.name}", part.value)
    for verdict in verdicts_of(score):
        metrics.add("judge/cached", verdict.cached)
        metrics.add("judge/seconds", verdict.seconds)
        metrics.add("judge/spread", verdict.spread)
        metrics.add("judge/tokens", verdict.tokens, Reduce.SUM)


def _add_trajectory(metrics: Metrics, trajectory: Trajectory) -> None:
    metrics.add("episode/turns", len(trajectory.turns))
    metrics.add("episode/sampled_tokens", trajectory.num_sampled_tokens)
    metrics.add("episode/images_shown", len(trajectory.shown))
    metrics.add("episode/valid", isinstance(trajectory.answer, Answer))
    metrics.add("episode/repairs", sum(len(turn.repairs) for turn in trajectory.turns))
    if isinstance(trajectory.answer, Answer):
        metrics.add("episode/references", len(trajectory.answer.chosen))
    for reason in StopReason:
        metrics.add(f"stop/{reason}", trajectory.stop_reason is reason)
    results = [turn.tool_result for turn in trajectory.turns if turn.tool_result]
    metrics.add("tools/calls", len(results))
    for result in results:
        metrics.add("tools/cached", result.cached)
        metrics.add("tools/latency_s", result.latency_s)
        metrics.add("tools/upstream_calls", result.upstream_calls, Reduce.SUM)
        metrics.add("tools/errors", result.error is not None, Reduce.SUM)
        metrics.add("tools/stand_ins", result.stand_in is not None, Reduce.SUM)
    names = [turn.tool_call.name for turn in trajectory.turns if turn.tool_call]
    for name in ("search", "image_search", "browse"):
        metrics.add(f"tools/{name}", names.count(name))


def _trajectories(members: Sequence[Member]) -> Iterator[Trajectory]:
    return (member.trajectory for member in members if member.trajectory is not None)
