"""Rollout workers that play no episode at all, and a recorder that only remembers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cluster.frontier import Ending, FrontierState
from cluster.parts import Mode
from cluster.track.timeline import Span
from core.records import Failure, Group, Member, RolloutId, Task, Trajectory, WeightUpdate
from tests.builders import make_trajectory

Play = Callable[[Task, RolloutId], Awaitable[Trajectory | Failure | None]]
"""None stands for an ordinary trajectory of the pool's present version."""


async def _at_once(task: Task, rollout_id: RolloutId) -> None:
    await asyncio.sleep(0)


class FakePool:
    """Implements cluster.parts.RolloutPool.

    Every trajectory's tokens come from the version that was applied when its episode began.
    Events: ("begin", rollout_id, version), ("end", rollout_id), ("apply_weights", version).
    """

    def __init__(self, play: Play = _at_once) -> None:
        self._play = play
        self.version = 0
        self.events: list[tuple[Any, ...]] = []

    async def run(self, task: Task, *, rollout_id: RolloutId, mode: Mode) -> Trajectory | Failure:
        version = self.version
        self.events.append(("begin", rollout_id, version))
        played = await self._play(task, rollout_id)
        self.events.append(("end", rollout_id))
        return played or make_trajectory(task=task, rollout_id=rollout_id, version=version)

    async def apply_weights(self, update: WeightUpdate, payload: Any) -> None:
        self.version = update.version
        self.events.append(("apply_weights", update.version))


class MemoryRecorder:
    """Implements cluster.parts.Recorder."""

    def __init__(self) -> None:
        self.members: list[tuple[Mode, int, Member]] = []
        self.spans: list[Span] = []
        self.endings: list[tuple[int, Ending, int]] = []
        self.starts: list[FrontierState] = []
        self.steps: list[tuple[int, Mapping[str, float]]] = []

    def started(self, state: FrontierState) -> None:
        self.starts.append(state)

    def member(self, member: Member, *, mode: Mode, step: int) -> None:
        self.members.append((mode, step, member))

    def span(self, span: Span) -> None:
        self.spans.append(span)

    def group(self, group: Group, *, ending: Ending, step: int) -> None:
        self.endings.append((group.task.ordinal, ending, step))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append((step, metrics))
