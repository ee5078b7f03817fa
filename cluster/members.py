"""One member of a group, from its task to its outcome: play the episode, grade it, try again.

The same path serves training and evaluation. A member whose episode failed by a fault of ours (an
engine, a node, a tool) is issued again under the next attempt number, up to `max_reissues` times;
its last Failure is then its outcome. A whole episode whose render or verdict failed is not played
again: whoever renders and judges has already asked as often as its budget allows. `on_attempt` is
told of every attempt, and of the policy version at its end.
"""

import logging
from collections.abc import Callable, Iterator

from cluster.grading import Grader
from cluster.parts import Mode, RolloutPool
from cluster.track.timeline import Span, Timeline
from core.errors import InfraError
from core.failure_policy import Action, Budget, Event, Part, decide, fault_of
from core.places import Places, Urgency
from core.records import Failure, Member, RolloutId, Score, Stage, Task, Trajectory

logger = logging.getLogger(__name__)


class MemberRunner:
    def __init__(
        self,
        *,
        pool: RolloutPool,
        grader: Grader,
        timeline: Timeline,
        on_attempt: Callable[[Member, Mode, int], None],
        policy_version: Callable[[], int],
        max_reissues: int,
        places: Places,
    ) -> None:
        self._pool = pool
        self._grader = grader
        self._timeline = timeline
        self._on_attempt = on_attempt
        self._policy_version = policy_version
        self._reissues = Budget(times=max_reissues)
        self._places = places

    async def run(
        self,
        task: Task,
        *,
        index: int,
        mode: Mode,
        urgency: Callable[[], Urgency] = tuple,
        on_played: Callable[[], None] = lambda: None,
    ) -> Member:
        """The member's last attempt. Its episodes, and its renders, wait for a place. `on_played`
        is called when an episode is whole, before it is graded."""
        attempt = 0
        while True:
            rollout_id = RolloutId(
                ordinal=task.ordinal, index=index, attempt=attempt, heldout=mode == "eval"
            )
            member = await self._attempt(task, rollout_id, mode, urgency, on_played)
            self._on_attempt(member, mode, self._policy_version())
            outcome = member.outcome
            if isinstance(outcome, Score):
                return member
            unplayed = member.trajectory is None or outcome.stage is Stage.TOOL
            part = Part.EPISODE if unplayed else Part.GRADE
            event = Event(part=part, fault=fault_of(outcome), times=attempt + 1)
            if decide(event, budget=self._reissues) is not Action.RETRY:
                logger.warning("rollout=%s given up: %s", rollout_id, outcome.message)
                return member
            attempt += 1

    async def _attempt(
        self,
        task: Task,
        rollout_id: RolloutId,
        mode: Mode,
        urgency: Callable[[], Urgency],
        on_played: Callable[[], None],
    ) -> Member:
        async with self._places.place(urgency()):
            oldest_allowed = self._policy_version()
            with self._timeline.span("rollout", str(rollout_id)):
                played = await self._pool.run(task, rollout_id=rollout_id, mode=mode)
        if isinstance(played, Failure):
            return _unplayed(rollout_id, played)
        for span in tool_spans(played):
            self._timeline.add(span)
        oldest = oldest_version(played)
        if oldest is not None and oldest < oldest_allowed:
            message = (
                f"rollout {rollout_id} was sampled by version {oldest} of the policy, "
                f"but version {oldest_allowed} had been applied"
            )
            return _unplayed(rollout_id, InfraError(message).as_failure())
        on_played()
        return await self._grader.grade(played, mode=mode, urgency=urgency())


def oldest_version(trajectory: Trajectory) -> int | None:
    """The oldest policy version that any of its tokens was sampled from; None: no tokens."""
    spans = (span for turn in trajectory.turns for span in turn.completion.policy_versions)
    return min((version for version, _, _ in spans), default=None)


def tool_spans(trajectory: Trajectory) -> Iterator[Span]:
    """When its tools ran, as the worker's clock saw it."""
    for turn in trajectory.turns:
        if turn.tool_result is not None:
            start_s = turn.started_s + turn.generate_s
            yield Span(
                kind="tool",
                item=str(trajectory.rollout_id),
                start_s=start_s,
                end_s=start_s + turn.tool_s,
            )


def _unplayed(rollout_id: RolloutId, failure: Failure) -> Member:
    return Member(rollout_id=rollout_id, trajectory=None, rendered=None, outcome=failure)
