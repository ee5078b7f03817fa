"""The pool over real actors that play nothing: spread, losses, and weights after a restart."""

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from actors.stats import EngineCounts, EngineStats, Gauges
from cluster.parts import LearnerLostError
from cluster.ray_pool import NoWorkersError, RayPool
from core.errors import FidelityError, InfraError
from core.records import Failure, RolloutId, Stage, Task, Trajectory, WeightUpdate
from tests.builders import make_rollout_id, make_task, make_trajectory
from tests.waiting import until_dead

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

SILENT = 99
"""A worker with weights of this version tells no numbers."""


class Player:
    """Plays by the prompt: "die", "bug", "infra", "unfaithful", "long", "block", or an ordinary
    trajectory."""

    def __init__(self) -> None:
        self._version = 0
        self._num_long = 0

    async def run(self, task: Task, rollout_id: RolloutId, mode: str) -> Trajectory | Failure:
        await asyncio.sleep(0.05)
        match task.prompt:
            case "die":
                os._exit(1)
            case "bug":
                raise ZeroDivisionError("a bug")
            case "infra":
                raise InfraError("the engine is busy", retryable=False)
            case "unfaithful":
                raise FidelityError("other pixels")
            case "block":
                time.sleep(600)  # noqa: ASYNC251  nothing else runs in this process
            case "long":
                self._num_long += 1
                try:
                    await asyncio.sleep(600)
                finally:
                    self._num_long -= 1
        return make_trajectory(task=task, rollout_id=rollout_id, version=self._version)

    async def apply_weights(
        self, updates: list[WeightUpdate], payload_refs: list[list[Any]]
    ) -> None:
        """A payload is one array, the version; a torn one says -1."""
        for update, (ref,) in zip(updates, payload_refs, strict=True):
            if update.base_version not in (None, self._version):
                raise InfraError(f"here is version {self._version}")
            self._version = int((await ref)[0])
            if self._version != update.version:
                raise InfraError("weights differ from their checksum")

    async def num_long(self) -> int:
        return self._num_long

    async def node_id(self) -> str:
        return str(os.getpid())

    async def stats(self) -> EngineStats:
        if self._version == SILENT:
            raise InfraError("the engine is dead")
        return EngineCounts(sampled_tokens=7).stats(num_running=2, gauges=Gauges())

    async def ping(self) -> str:
        return "pong"


def weights(version: int, *, base: int | None = None) -> WeightUpdate:
    return WeightUpdate(version=version, base_version=base, manifest=(), chunks=())


def payload(version: int) -> list[Any]:
    return [ray.put(np.array([version]))]


@pytest.fixture
def handles() -> Iterator[list[Any]]:
    """Of two that are up: how long their processes start counts for no deadline here."""
    actor = ray.remote(Player).options(num_cpus=0.1, max_restarts=-1, max_concurrency=16)
    handles = [actor.remote() for _ in range(2)]
    ray.get([handle.ping.remote() for handle in handles])
    yield handles
    for handle in handles:
        ray.kill(handle)


@pytest.fixture
def pool(handles: list[Any]) -> RayPool:
    return RayPool(handles)


async def until_long(pool: RayPool, number: int) -> None:
    """Until so many long episodes are played: Ray starts and stops one when it comes to it."""
    async with asyncio.timeout(60):
        while sum([await one.handle.num_long.remote() for one in pool._workers]) != number:
            pass


async def play(pool: RayPool, prompt: str = "Draw.") -> Trajectory | Failure:
    return await pool.run(make_task(prompt=prompt), rollout_id=make_rollout_id(), mode="train")


def version_of(played: Trajectory | Failure) -> int:
    assert isinstance(played, Trajectory), played
    return played.turns[0].completion.policy_versions[0][0]


async def test_episodes_use_the_weights_that_were_applied_last(pool: RayPool) -> None:
    assert version_of(await play(pool)) == 0
    await pool.apply_weights(weights(1), payload(1))
    played = await asyncio.gather(*(play(pool) for _ in range(8)))
    assert {version_of(one) for one in played} == {1}


async def test_faults_are_failures_and_other_errors_of_ours_are_raised(pool: RayPool) -> None:
    bug, infra = await asyncio.gather(play(pool, "bug"), play(pool, "infra"))
    assert isinstance(bug, Failure)
    assert (bug.error_type, bug.retryable) == ("ZeroDivisionError", True)
    assert isinstance(infra, Failure)
    assert not infra.retryable
    with pytest.raises(FidelityError, match="other pixels"):
        await play(pool, "unfaithful")


async def test_a_lost_worker_gets_the_current_weights_before_it_plays_again(pool: RayPool) -> None:
    await pool.apply_weights(weights(3), payload(3))
    lost = await asyncio.gather(play(pool, "die"), play(pool, "die"))
    assert all(isinstance(one, Failure) and one.retryable for one in lost)
    played = await asyncio.gather(*(play(pool) for _ in range(6)))
    assert {version_of(one) for one in played} == {3}


async def test_weights_that_no_worker_can_take_are_an_error(pool: RayPool) -> None:
    with pytest.raises(InfraError, match="version 2"):
        await pool.apply_weights(weights(2), payload(-1))


async def test_a_worker_that_cannot_use_a_delta_starts_from_the_last_snapshot(
    pool: RayPool,
) -> None:
    await pool.apply_weights(weights(1), payload(1))
    await pool.apply_weights(weights(2, base=1), payload(2))
    behind = pool._workers[0].handle
    await behind.apply_weights.remote([weights(1)], [payload(1)])  # it has lost version 2
    await pool.apply_weights(weights(3, base=2), payload(3))
    played = await asyncio.gather(*(play(pool) for _ in range(8)))
    assert {version_of(one) for one in played} == {3}


async def test_a_worker_that_comes_back_catches_up_through_the_chain(pool: RayPool) -> None:
    await pool.apply_weights(weights(1), payload(1))
    await pool.apply_weights(weights(2, base=1), payload(2))
    await asyncio.gather(play(pool, "die"), play(pool, "die"))
    played = await asyncio.gather(*(play(pool) for _ in range(6)))
    assert {version_of(one) for one in played} == {2}


class Owner:
    """What it gives out is gone with it."""

    def put(self, version: int) -> list[Any]:
        return payload(version)

    def ping(self) -> str:
        return "pong"


async def test_workers_that_wait_for_the_weights_of_a_dead_learner_say_so(
    pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.ray_pool.RETRY_S", 0.05)
    learner = ray.remote(Owner).options(num_cpus=0.1).remote()
    await pool.apply_weights(weights(1), await learner.put.remote(1))
    ray.kill(learner)
    await until_dead(learner.ping)
    await asyncio.gather(play(pool, "die"), play(pool, "die"))
    with pytest.raises(LearnerLostError, match="every rollout worker waits"):
        await play(pool)
    await pool.apply_weights(weights(0), payload(0))
    assert version_of(await play(pool)) == 0


async def test_workers_that_never_come_back_end_the_run(
    pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.ray_pool.RETRY_S", 0.02)
    for worker in pool._workers:
        ray.kill(worker.handle, no_restart=True)
        await until_dead(worker.handle.ping)
    found_out = await asyncio.gather(play(pool), play(pool))
    assert all(isinstance(one, Failure) and one.retryable for one in found_out)
    with pytest.raises(NoWorkersError, match="every rollout worker is gone"):
        await play(pool)


async def test_an_abandoned_episode_is_taken_off_its_worker(pool: RayPool) -> None:
    episodes = [asyncio.create_task(play(pool, "long")) for _ in range(2)]
    await until_long(pool, 2)
    for episode in episodes:
        episode.cancel()
    await asyncio.wait(episodes)
    await until_long(pool, 0)
    assert [worker.num_episodes for worker in pool._workers] == [0, 0]


async def test_an_episode_that_takes_too_long_is_taken_off_its_worker_and_fails(
    pool: RayPool,
) -> None:
    pool._episode_timeout_s = 0.5
    played = await play(pool, "long")

    assert isinstance(played, Failure)
    assert played.retryable
    assert (played.stage, played.error_type) == (Stage.INFRA, "EpisodeTimeout")
    await until_long(pool, 0)
    pool._episode_timeout_s = 60
    assert isinstance(await play(pool), Trajectory), "the worker plays on"


async def test_a_worker_that_answers_nothing_any_more_is_started_afresh(
    pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.ray_pool.PING_S", 0.5)
    first, second = pool._workers
    pool._episode_timeout_s = 0.5
    assert isinstance(await play(pool, "block"), Failure)

    assert not first.ready
    assert (await pool._least_busy()) is second
    async with pool._returned:
        await pool._returned.wait_for(lambda: first.ready)
    pool._episode_timeout_s = 60
    both = await asyncio.gather(play(pool), play(pool))
    assert all(isinstance(played, Trajectory) for played in both)


async def test_a_worker_leaves_a_draining_node_when_its_last_episode_has_ended(
    handles: list[Any],
) -> None:
    """Each actor's process stands for a node of its own."""
    draining: set[str] = set()
    pool = RayPool(handles, draining_nodes=lambda: draining)
    first, second = pool._workers
    episodes = [asyncio.create_task(play(pool, "long")) for _ in range(2)]
    await until_long(pool, 2)
    assert len(await pool.read_engines()) == 2
    assert first.node_id is not None
    draining.add(first.node_id)

    assert len(await pool.read_engines()) == 2, "it still plays"
    assert isinstance(await play(pool), Trajectory)
    assert first.draining
    assert (await pool._least_busy()) is second
    for episode in episodes:
        episode.cancel()
    await asyncio.wait(episodes)
    assert len(await pool.read_engines()) == 1, "it has gone"
    async with pool._returned:
        await pool._returned.wait_for(lambda: first.ready)
    await pool.read_engines()
    assert not first.draining, "it is somewhere else"


async def test_workers_that_do_not_answer_are_left_out_of_the_stats(pool: RayPool) -> None:
    assert [stats.num_running for stats in (await pool.engine_stats()).values()] == [2, 2]
    await pool.apply_weights(weights(SILENT), payload(SILENT))
    assert await pool.engine_stats() == {}
