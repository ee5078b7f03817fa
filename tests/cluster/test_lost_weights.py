"""Workers that wait for weights which are gone with the learner: the pool says so, and goes on
with the next learner's. Without Ray: handles that answer as its actors do."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, OwnerDiedError, RayTaskError

from cluster.parts import LearnerLostError
from cluster.ray_pool import RayPool
from core.records import Failure, RolloutId, Task, Trajectory, WeightUpdate
from tests.builders import make_rollout_id, make_task, make_trajectory

GONE = "gone"
"""A payload whose owner is dead."""


class Worker:
    """Dies when it is told to, and is there again at once."""

    def __init__(self) -> None:
        self.dies = False
        self.version = 0

    async def run(self, task: Task, rollout_id: RolloutId, mode: str) -> Trajectory:
        if self.dies:
            self.dies, self.version = False, 0
            raise ActorUnavailableError("killed", None)
        return make_trajectory(task=task, rollout_id=rollout_id, version=self.version)

    async def ping(self) -> str:
        return "pong"

    async def apply_weights(self, updates: list[WeightUpdate], payloads: list[list[str]]) -> None:
        if [GONE] in payloads and self.version == 0:
            lost = OwnerDiedError("00", "learner", "")
            raise RayTaskError("apply_weights", "traceback", lost)
        self.version = updates[-1].version


class Handle:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self._worker, name)
        return SimpleNamespace(remote=method)


async def play(pool: RayPool) -> Trajectory | Failure:
    return await pool.run(make_task(), rollout_id=make_rollout_id(), mode="train")


def dense(version: int) -> WeightUpdate:
    return WeightUpdate(version=version, base_version=None, manifest=(), chunks=())


async def test_with_every_worker_away_and_the_weights_gone_the_learner_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cluster.ray_pool.RETRY_S", 0.01)
    workers = [Worker(), Worker()]
    pool = RayPool([Handle(worker) for worker in workers])
    await pool.apply_weights(dense(1), ["arrives"])
    pool._chain[0].refs[:] = [GONE]

    workers[0].dies = True
    assert isinstance(await play(pool), Failure)
    await asyncio.sleep(0.05)
    assert isinstance(await play(pool), Trajectory), "the other worker has its weights"

    workers[1].dies = True
    assert isinstance(await play(pool), Failure)
    with pytest.raises(LearnerLostError, match="every rollout worker waits"):
        await play(pool)

    await pool.apply_weights(dense(0), ["arrives"])
    assert isinstance(await play(pool), Trajectory)
