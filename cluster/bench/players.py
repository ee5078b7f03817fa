"""Opens the agents that play episodes: rollout workers on Ray, or an endpoint from this process.

Both bring the tokenizer and the episode loop with them, so nothing else of an evaluation imports
this module. Errors of start-up pass through as they are.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from actors.image_models import references_of_an_answer
from cluster.bench.agents import EpisodeAgent, costs_nothing
from cluster.bench.identity import agent_identity
from cluster.bench.plan import EvalPlan
from cluster.local import LocalPool
from cluster.openers import Keys, open_toolbox, prepare_corpus, prepare_store
from cluster.parts import Mode, RolloutPool
from core.chat_completions import OpenAIChat, Price
from core.config import Config
from core.endpoint import Endpoint, Limits
from core.errors import InfraError
from core.protocols import Toolbox, ToolSpec
from core.records import RolloutId, Task, Trajectory
from envs.chat import ChatFormat
from envs.chat_policy import ChatPolicy
from envs.episode import EpisodeLimits, run_episode
from envs.http import operators_client
from envs.images import FileImageStore
from envs.prompts import system_prompt


def open_player(
    plan: EvalPlan, config: Config, keys: Keys, images: FileImageStore, stack: ExitStack
) -> EpisodeAgent:
    """`stack` takes down what it starts."""
    run_dir = config.run_dir.resolve()
    pool: RolloutPool
    cost_usd: Callable[[RolloutId], float] = costs_nothing
    if plan.needs_rollout_workers:
        from cluster.services import start_search  # it imports Ray

        toolbox, specs = start_search(config, run_dir, keys, stack)
        prompt = _system_prompt(config, specs)
        images_folder = str(run_dir / "images")
        pool = _worker_pool(config, toolbox, specs, images_folder=images_folder, stack=stack)
    else:
        prepare_store(config, run_dir)
        prepare_corpus(config, run_dir)
        if plan.needs_served_summariser(config):
            from cluster.services import start_served_summariser  # it imports Ray

            start_served_summariser(config, stack)
        tools = open_toolbox(config, run_dir, keys, launch=uuid.uuid4().hex[:8])
        stack.callback(lambda: asyncio.run(tools.close()))
        prompt = _system_prompt(config, tools.specs)
        policy = _endpoint_policy(config, keys, images)
        pool = _local_pool(config, policy, tools, prompt, images)
        cost_usd = policy.take_cost_usd
    return EpisodeAgent(
        pool=pool,
        identity=agent_identity(plan, config, system_prompt=prompt),
        system_prompt=prompt,
        fallback=plan.fallback,
        max_reissues=config.train.max_reissues,
        turns_cost_usd=cost_usd,
    )


def _system_prompt(config: Config, specs: Sequence[ToolSpec]) -> str:
    return system_prompt(
        config.policy.system_prompt,
        specs,
        max_references=references_of_an_answer(config.render),
    )


def _worker_pool(
    config: Config,
    toolbox: Toolbox,
    specs: tuple[ToolSpec, ...],
    *,
    images_folder: str,
    stack: ExitStack,
) -> RolloutPool:
    """Rollout workers without a learner beside them."""
    import ray
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from actors.rollout import RolloutWorker
    from actors.runtime_env import worker_env
    from cluster.ray_pool import RayPool

    settings: Any = AlgorithmConfig()
    settings.gensearcher = config
    settings.toolbox = toolbox
    settings.tool_specs = specs
    settings.images_folder = images_folder
    worker = ray.remote(RolloutWorker).options(
        num_cpus=config.rollout.num_cpus_per_worker,
        num_gpus=config.rollout.num_gpus_per_worker,
        max_restarts=-1,
        runtime_env={"env_vars": worker_env(config)},
    )
    workers = [worker.remote(config=settings) for _ in range(config.rollout.num_workers)]
    for one in workers:
        stack.callback(ray.kill, one)
    ray.get([one.ping.remote() for one in workers])  # they are up, or their error is raised here
    return RayPool(workers, episode_timeout_s=config.episode_timeout_s)


def _endpoint_policy(config: Config, keys: Keys, images: FileImageStore) -> ChatPolicy:
    agent = config.agent
    limits = Limits(
        per_second=agent.per_second,
        max_in_flight=agent.max_in_flight,
        timeout_s=agent.timeout_s,
        deadline_s=agent.deadline_s,
        max_tries=agent.max_tries,
    )
    model = OpenAIChat(
        Endpoint(operators_client(), name=f"agent {agent.model}", limits=limits, error=InfraError),
        base_url=agent.base_url,
        model=agent.model,
        api_key=keys.agent,
        error=InfraError,
        price=Price(prompt_usd=agent.prompt_usd, completion_usd=agent.completion_usd),
    )
    return ChatPolicy(model, chat=ChatFormat.load(config.policy.path), images=images)


def _local_pool(
    config: Config, policy: ChatPolicy, toolbox: Toolbox, prompt: str, images: FileImageStore
) -> RolloutPool:
    """Episodes of this process."""

    async def play(task: Task, rollout_id: RolloutId, mode: Mode) -> Trajectory:
        return await run_episode(
            task,
            rollout_id=rollout_id,
            policy=policy,
            toolbox=toolbox,
            images=images,
            chat=policy.chat,
            system_prompt=prompt,
            limits=EpisodeLimits(
                max_turns=config.rollout.max_turns,
                max_tokens_per_turn=config.rollout.max_tokens_per_turn,
                max_context=config.rollout.max_context,
                max_images_per_search=config.tools.max_images_per_search,
                max_references=references_of_an_answer(config.render),
                max_tool_s=config.tools.episode_deadline_s,
            ),
            temperature=config.eval.temperature,
            top_p=config.eval.top_p,
            seed=config.run.seed,
        )

    return LocalPool(None, play)
