"""Held-out evaluation: the same episodes and the same grading as in training, one per task.

Enters: tasks, and a MemberRunner over the live pool. Leaves: one EvalItem per task with facts
derived from its trajectory. Summary numbers with intervals are made of them in
cluster/summary.py. A task whose episode failed by a fault of ours, after its re-issues, stays in
the result with its Failure and counts in no mean.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.members import MemberRunner
from core.records import Answer, Member, Score, Task, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalItem:
    """One task and what the policy made of it."""

    task: Task
    member: Member
    valid: bool
    """There is an answer that could be read."""
    image_searched: bool
    """image_search was called at least once."""
    flagged: bool
    """A tool was broken during the episode; the score may be lower by no fault of the policy."""
    picked: bool | None
    """The right reference is among the chosen ones; None when the task names none."""
    pick_chance: float | None
    """Probability that as many images, drawn blindly from those shown, hold the right one."""

    @property
    def score(self) -> Score | None:
        """None when our own fault kept it from being scored."""
        return self.member.outcome if isinstance(self.member.outcome, Score) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    policy_version: int
    items: tuple[EvalItem, ...]
    """In the order of the tasks."""
    seconds: float

    @property
    def num_failed(self) -> int:
        return sum(item.score is None for item in self.items)


async def evaluate(
    tasks: Sequence[Task], *, members: MemberRunner, policy_version: int
) -> EvalResult:
    """Play every task once; the runner bounds how many run at the same time."""
    started_s = time.monotonic()
    outcomes = await asyncio.gather(*(members.run(task, index=0, mode="eval") for task in tasks))
    items = (eval_item(task, member) for task, member in zip(tasks, outcomes, strict=True))
    return EvalResult(
        policy_version=policy_version,
        items=tuple(items),
        seconds=time.monotonic() - started_s,
    )


def eval_item(task: Task, member: Member) -> EvalItem:
    """The facts of one episode; all false or None where there is no trajectory."""
    trajectory = member.trajectory
    return EvalItem(
        task=task,
        member=member,
        valid=trajectory is not None and isinstance(trajectory.answer, Answer),
        image_searched=trajectory is not None and _image_searched(trajectory),
        flagged=trajectory is not None and bool(trajectory.tool_errors),
        picked=_picked(task, trajectory),
        pick_chance=_pick_chance(task, trajectory),
    )


def _image_searched(trajectory: Trajectory) -> bool:
    calls = (turn.tool_call for turn in trajectory.turns)
    return any(call is not None and call.name == "image_search" for call in calls)


def _picked(task: Task, trajectory: Trajectory | None) -> bool | None:
    if task.reference is None or trajectory is None:
        return None
    answer = trajectory.answer
    return isinstance(answer, Answer) and task.reference in answer.chosen


def _pick_chance(task: Task, trajectory: Trajectory | None) -> float | None:
    """Chosen over shown, both counted once per content; 0 when nothing was shown or chosen."""
    if task.reference is None or trajectory is None:
        return None
    shown = {found.ref.sha256 for _, found in trajectory.shown}
    answer = trajectory.answer
    chosen = {ref.sha256 for ref in answer.chosen} if isinstance(answer, Answer) else set()
    return min(1.0, len(chosen) / len(shown)) if shown else 0.0
