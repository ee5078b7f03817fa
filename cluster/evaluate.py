"""Held-out evaluation: the same episodes and the same grading as in training, one per task.

Enters: tasks, and a MemberRunner over the live pool. Leaves: one graded Member per task; numbers
with intervals are made of them in cluster/report/summary.py. A task whose episode failed by a
fault of ours, after its re-issues, stays in the result with its Failure and counts in no mean.

All episodes of an evaluation are of one version of the policy. Beside training the next weights
wait for the last of them; its renders and verdicts go on behind it.
"""

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.frontier import Frontier
from cluster.members import MemberRunner
from core.places import Places, Urgency
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
    tasks: Sequence[Task],
    *,
    members: MemberRunner,
    policy_version: int,
    urgency: Urgency = (),
    on_played: Callable[[], None] = lambda: None,
) -> EvalResult:
    """Play every task once; the runner bounds how many run at the same time. `urgency`: of its
    renders. `on_played` is called when no episode of it needs an engine any more."""
    started_s = time.monotonic()
    playing = set(range(len(tasks)))

    def over(number: int) -> None:
        playing.discard(number)
        if not playing:
            on_played()

    async def member_of(number: int, task: Task) -> Member:
        is_over = functools.partial(over, number)
        member = await members.run(
            task, index=0, mode="eval", urgency=lambda: urgency, on_played=is_over
        )
        is_over()  # one that was given up was never whole
        return member

    ended = await asyncio.gather(*(member_of(n, task) for n, task in enumerate(tasks)))
    return EvalResult(
        policy_version=policy_version,
        members=tuple(ended),
        seconds=time.monotonic() - started_s,
    )


class Evaluations:
    """Those of a run: alone (`play`), or one at a time beside training (`begin`, `finish`).

    Beside training, whoever applies new weights waits `until_played`. Lives on one loop."""

    def __init__(
        self,
        *,
        new_members: Callable[[Places, Callable[[], int]], MemberRunner],
        max_parallel: int,
        frontier: Callable[[], Frontier],
        on_end: Callable[[asyncio.Task[EvalResult]], None],
    ) -> None:
        """`new_members`: from their places and their version of the policy. `on_end` is told of
        every evaluation beside training, however it ends."""
        self._new_members = new_members
        self._max_parallel = max_parallel
        self._frontier = frontier
        self._on_end = on_end
        self._beside: _Beside | None = None

    async def play(self, tasks: Sequence[Task]) -> EvalResult:
        """With the present policy, which must not change meanwhile."""
        return await self._evaluate(tasks, version=self._frontier().step)

    async def begin(self, tasks: Sequence[Task]) -> None:
        """With the present policy; the evaluation before must be finished. Its renders stand in
        line behind those of the groups that are under way."""
        assert self._beside is None
        played, version = asyncio.Event(), self._frontier().step
        urgency = (False, self._frontier().next_batch)
        work = self._evaluate(tasks, version=version, urgency=urgency, on_played=played.set)
        result = asyncio.create_task(work, name=f"evaluation of version {version}")
        result.add_done_callback(lambda _: played.set())
        result.add_done_callback(self._on_end)
        self._beside = _Beside(tasks=tasks, policy_version=version, played=played, result=result)

    @property
    def is_begun(self) -> bool:
        """Whether there is one to `finish`. Read from any thread, as `is_over`."""
        return self._beside is not None

    @property
    def is_over(self) -> bool:
        """Whether `finish` returns at once."""
        beside = self._beside
        return beside is None or beside.result.done()

    async def finish(self) -> EvalResult | None:
        """The result of the one that was begun last. None: none was, or its policy was lost with a
        learner, so that the step before it comes again."""
        if self._beside is None:
            return None
        result = await asyncio.shield(self._beside.result)
        self._beside = None
        return result

    async def until_played(self) -> float:
        """Return when the one that was begun, if any, needs no engine any more: after how many
        seconds."""
        clock = asyncio.get_running_loop().time
        began_s = clock()
        if self._beside is not None:
            await self._beside.played.wait()
        return clock() - began_s

    async def abandon(self) -> None:
        """Stop it, unless only renders and verdicts are left: they need no weights."""
        if self._beside is not None and not self._beside.played.is_set():
            self._beside.result.cancel()
            await self._beside.played.wait()

    async def take_up(self) -> None:
        """With the policy of another learner: what was abandoned begins again, unless it was of a
        later version: the step before that comes again, and with it an evaluation."""
        beside, version = self._beside, self._frontier().step
        if beside is None:
            return
        if beside.policy_version > version:
            beside.result.cancel()
            self._beside = None
        elif beside.is_lost:
            self._beside = None
            await self.begin(beside.tasks)

    async def _evaluate(
        self,
        tasks: Sequence[Task],
        *,
        version: int,
        urgency: Urgency = (),
        on_played: Callable[[], None] = lambda: None,
    ) -> EvalResult:
        return await evaluate(
            tasks,
            members=self._new_members(Places(self._max_parallel), lambda: version),
            policy_version=version,
            urgency=urgency,
            on_played=on_played,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beside:
    tasks: Sequence[Task]
    policy_version: int
    played: asyncio.Event
    """No episode of it needs an engine any more; also when it failed."""
    result: asyncio.Task[EvalResult]

    @property
    def is_lost(self) -> bool:
        """It ended without a result."""
        return self.result.done() and (self.result.cancelled() or bool(self.result.exception()))
