"""Held-out evaluation: the same episodes and the same grading as in training, one per task.

Enters: tasks, and a MemberRunner over the live pool. Leaves: one graded Member per task; numbers
with intervals are made of them in cluster/report/summary.py. A task whose episode failed by a
fault of ours, after its re-issues, stays in the result with its Failure and counts in no mean.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.members import MemberRunner
from core.records import Failure, Member, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    policy_version: int
    members: tuple[Member, ...]
    """In the order of the tasks."""
    seconds: float

    @property
    def num_failed(self) -> int:
        return sum(isinstance(member.outcome, Failure) for member in self.members)


async def evaluate(
    tasks: Sequence[Task], *, members: MemberRunner, policy_version: int
) -> EvalResult:
    """Play every task once; the runner bounds how many run at the same time."""
    started_s = time.monotonic()
    played = await asyncio.gather(*(members.run(task, index=0, mode="eval") for task in tasks))
    return EvalResult(
        policy_version=policy_version,
        members=tuple(played),
        seconds=time.monotonic() - started_s,
    )
