"""An episode that hangs is given up after its deadline, on a simulated clock."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError

from cluster.ray_pool import RayPool
from core.config import build_config
from core.errors import ConfigError
from core.records import Failure, RolloutId, Task, Trajectory
from tests.builders import make_rollout_id, make_task, make_trajectory
from tests.simulated_clock import SimulatedLoop


class Worker:
    """Plays for so many seconds; the handle's `run.remote` gives a coroutine instead of a ref."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.run = SimpleNamespace(remote=self._run)
        self.ping = SimpleNamespace(remote=self._ping)

    async def _run(self, task: Task, rollout_id: RolloutId, mode: str) -> Trajectory:
        await asyncio.sleep(self._seconds)
        return make_trajectory(task=task, rollout_id=rollout_id)

    async def _ping(self) -> str:
        return "pong"


def play(seconds: float) -> tuple[Trajectory | Failure, float]:
    """What came back, and after how many seconds."""
    loop = SimulatedLoop()

    async def run() -> Trajectory | Failure:
        pool = RayPool([Worker(seconds)], episode_timeout_s=100.0)
        return await pool.run(make_task(), rollout_id=make_rollout_id(), mode="train")

    began_s = loop.time()
    try:
        return loop.run_until_complete(run()), loop.time() - began_s
    finally:
        loop.close()


def test_an_episode_that_hangs_fails_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[Any] = []
    monkeypatch.setattr(ray, "cancel", cancelled.append)

    played, seconds = play(1e9)

    assert isinstance(played, Failure)
    assert played.retryable
    assert played.error_type == "EpisodeTimeout"
    assert seconds == pytest.approx(100.0)
    assert len(cancelled) == 1, "the worker is told to stop it"


def test_an_episode_just_below_its_deadline_is_played_to_its_end() -> None:
    played, seconds = play(99.0)

    assert isinstance(played, Trajectory)
    assert seconds == pytest.approx(99.0)


async def test_a_timeout_that_the_worker_raises_is_not_taken_for_the_deadline() -> None:
    """Ray raises an error of both kinds."""
    raised = RayTaskError("run", "", TimeoutError("no answer")).as_instanceof_cause()

    async def fail(task: Task, rollout_id: RolloutId, mode: str) -> Trajectory:
        raise raised

    pool = RayPool([SimpleNamespace(run=SimpleNamespace(remote=fail))])
    played = await pool.run(make_task(), rollout_id=make_rollout_id(), mode="train")

    assert isinstance(played, Failure)
    assert played.error_type == "TimeoutError"


def test_a_hung_episode_is_given_up_before_the_run_is_ended_as_a_stall() -> None:
    config = build_config({"train": {"stall_timeout_s": 300.0}})
    assert config.episode_timeout_s == pytest.approx(240.0)

    config = build_config({"rollout": {"episode_timeout_s": 50.0}})
    assert config.episode_timeout_s == 50.0

    with pytest.raises(ConfigError, match=r"rollout.episode_timeout_s is 900.*below.*which is 900"):
        build_config({"rollout": {"episode_timeout_s": 900.0}})
