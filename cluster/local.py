"""The parts of a run in one process, without Ray: for tests, and for looking closely.

`LocalPool` plays episodes on an engine of this process; `LocalLearner` runs a learner's blocking
calls on a thread. The controller around them is the same as on a cluster.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cluster.parts import Mode
from core.errors import InfraError, LearnerError, StageError, boundary
from core.protocols import Engine, Learner
from core.records import (
    Failure,
    Group,
    LearnerReport,
    RolloutId,
    Task,
    Trajectory,
    WeightUpdate,
)

PlayEpisode = Callable[[Task, RolloutId, Mode], Awaitable[Trajectory]]
"""envs.episode.run_episode with everything but these three bound."""


class LocalPool:
    """Implements cluster.parts.RolloutPool with one engine."""

    def __init__(self, engine: Engine | None, play: PlayEpisode) -> None:
        """`engine` is None where the weights cannot be replaced, e.g. behind an endpoint."""
        self._engine = engine
        self._play = play

    async def run(self, task: Task, *, rollout_id: RolloutId, mode: Mode) -> Trajectory | Failure:
        try:
            with boundary(InfraError, f"rollout {rollout_id}"):
                return await self._play(task, rollout_id, mode)
        except StageError as error:
            return error.as_failure()

    async def apply_weights(self, update: WeightUpdate, payload: Any) -> None:
        if self._engine is None:
            raise InfraError("these weights cannot be replaced", retryable=False)
        await self._engine.apply_weights([update], [payload])


class LocalLearner:
    """Implements cluster.parts.RemoteLearner around a learner of this process."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    async def begin(self, groups: Sequence[Group]) -> None:
        await asyncio.to_thread(self._learner.begin, groups)

    async def step(self, groups: Sequence[Group]) -> LearnerReport:
        return await asyncio.to_thread(self._learner.update, groups)

    async def publish(self) -> tuple[WeightUpdate, Any]:
        return await asyncio.to_thread(self._learner.publish)

    async def save(self, folder: str) -> int:
        return await asyncio.to_thread(self._learner.save, folder)

    async def saved(self) -> None:
        """At once: `save` has written it."""

    async def load(self, folder: str) -> None:
        await asyncio.to_thread(self._learner.load, folder)

    async def restart(self) -> None:
        raise LearnerError("this learner lives and dies with its process", retryable=False)
