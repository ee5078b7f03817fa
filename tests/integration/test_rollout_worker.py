"""vLLM inside an RLlib EnvRunner: an async Ray actor on CPU, with a fraction of a core."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.runtime_env import worker_env
from core.config import Config, build_config
from core.errors import InfraError
from core.protocols import ToolSpec
from core.records import Completion, RolloutId, StopReason, Trajectory
from learners.publish import WeightPublisher
from tests.builders import make_task
from tests.fakes.tools import FakeToolbox
from tests.hf_policy import HfPolicy
from tests.tiny_model import build_tiny_policy

pytestmark = [pytest.mark.integration, pytest.mark.ray]

WAIT_S = 300.0
TOOLS = (ToolSpec(name="search", description="Search text.", parameters={}),)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = str(build_tiny_policy(tmp_path_factory.mktemp("policy")))
    rollout = {
        **{"max_context": 1024, "max_turns": 3, "max_tokens_per_turn": 48},
        **{"kv_cache_gib": 0.05, "num_cpus_per_worker": 0.3},
    }
    return build_config(
        {"policy": {"path": folder}, "render": {"path": folder}, "rollout": rollout}
    )


@pytest.fixture(scope="module")
def worker(
    ray_cluster: str, config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    import ray
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from actors.rollout import RolloutWorker

    settings: Any = AlgorithmConfig()
    settings.gensearcher = config
    settings.toolbox = FakeToolbox()
    settings.tool_specs = TOOLS
    settings.images_folder = str(tmp_path_factory.mktemp("images"))
    actor = ray.remote(RolloutWorker).options(
        num_cpus=config.rollout.num_cpus_per_worker,
        max_restarts=1,
        runtime_env={"env_vars": worker_env(config)},
    )
    worker = actor.remote(config=settings)
    yield worker
    ray.get(worker.stop.remote(), timeout=WAIT_S)
    ray.kill(worker)


@pytest.fixture
def oracle(config: Config) -> HfPolicy:
    return HfPolicy(Path(config.policy.path))


def largest_difference(oracle: HfPolicy, trajectory: Trajectory) -> float:
    """Over all sampled tokens of an episode without images: |vLLM - transformers| of log pi."""
    worst = 0.0
    for turn in trajectory.turns:
        completion: Completion = turn.completion
        expected = oracle.logprobs(
            turn.prompt_ids,
            completion.token_ids,
            temperature=completion.sampling.temperature,
            banned_ids=completion.sampling.banned_ids,
        )
        worst = max(worst, float(np.abs(np.array(completion.logprobs) - expected).max()))
    return worst


def versions(trajectory: Trajectory) -> set[int]:
    spans = (turn.completion.policy_versions for turn in trajectory.turns)
    return {version for turn in spans for version, _, _ in turn}


async def test_episodes_run_side_by_side_in_an_async_env_runner(
    worker: Any, config: Config, oracle: HfPolicy
) -> None:
    task = make_task(ordinal=4)
    ids = [RolloutId(ordinal=4, index=index) for index in range(4)]
    first, second, *others = await asyncio.gather(*(worker.run.remote(task, one) for one in ids))
    evaluated = await worker.run.remote(task, ids[0], "eval")

    trajectories = [first, second, *others, evaluated]
    assert all(isinstance(one, Trajectory) for one in trajectories), trajectories
    assert [one.rollout_id for one in trajectories] == [*ids, ids[0]]
    assert all(one.stop_reason in set(StopReason) for one in trajectories)
    assert all(largest_difference(oracle, one) < 1e-4 for one in trajectories)
    assert all(versions(one) == {0} for one in trajectories)
    assert len({one.turns[0].completion.token_ids for one in trajectories[:4]}) == 4
    sampling = first.turns[0].completion.sampling
    assert (sampling.temperature, sampling.top_p) == (0.7, 0.95)
    assert sampling.banned_ids == tuple(sorted(oracle.banned_ids))
    sampling = evaluated.turns[0].completion.sampling
    assert (sampling.temperature, sampling.top_p) == (0.6, 0.9)
    assert "<|im_start|>system\nTools: search.<|im_end|>" in oracle.tokenizer.decode(
        first.turns[0].prompt_ids
    )


async def test_rllib_may_apply_plain_and_async_functions(worker: Any) -> None:
    stats = await worker.apply.remote(lambda one: one.stats())
    assert stats.num_requests >= 0
    assert stats.num_running == 0
    assert await worker.apply.remote(lambda one, plus: one.policy_version() + plus, 7) == 7
    with pytest.raises(ZeroDivisionError):
        await worker.apply.remote(lambda one: 1 // 0)
    assert await worker.ping.remote() == "pong", "an error in apply() ends nothing"
    await worker.assert_healthy.remote()
    assert set(await worker.get_spaces.remote()) == {"__env__", "__env_single__", "default_policy"}


async def test_pushed_weights_are_what_the_next_episode_samples_from(
    worker: Any, oracle: HfPolicy
) -> None:
    import ray

    oracle.perturb(scale=0.02, seed=2)
    update, payload = WeightPublisher(dtype="float32").publish(oracle.model.state_dict(), version=1)
    spoiled = payload[0].copy()
    spoiled[5] ^= 1
    with pytest.raises(InfraError, match="checksum"):
        await worker.apply_weights.remote([update], [[ray.put(spoiled)]])
    assert await worker.policy_version.remote() == 0

    await worker.apply_weights.remote([update], [[ray.put(part) for part in payload]])

    assert await worker.policy_version.remote() == 1
    trajectory = await worker.run.remote(make_task(), RolloutId(ordinal=0, index=0))
    assert versions(trajectory) == {1}
    assert largest_difference(oracle, trajectory) < 1e-4
    assert (await worker.stats.remote()).num_updates == 1


async def test_a_worker_whose_engine_died_is_started_afresh(worker: Any, oracle: HfPolicy) -> None:
    import ray
    from ray.exceptions import RayActorError

    weights = {k: v for k, v in oracle.model.state_dict().items() if k != "lm_head.weight"}
    update, payload = WeightPublisher(dtype="float32").publish(weights, version=2)
    with pytest.raises(InfraError, match="lm_head"):
        await worker.apply_weights.remote([update], [[ray.put(part) for part in payload]])
    with pytest.raises(InfraError, match="lm_head"):
        await worker.ping.remote()
    with pytest.raises(RayActorError):
        await worker.run.remote(make_task(), RolloutId(ordinal=0, index=0))

    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            assert await worker.ping.remote() == "pong"
            break
        except RayActorError:
            assert time.monotonic() < deadline
            await asyncio.sleep(1)
    trajectory = await worker.run.remote(make_task(), RolloutId(ordinal=0, index=0))
    assert versions(trajectory) == {0}
