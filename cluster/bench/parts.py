"""Opens what the stages of an evaluation need, and nothing else; closes it in reverse order.

Rollout workers and diffusers replicas live on Ray; the raw prompt, an endpoint that plays the
agent, API image models and judges need none, so that e.g. `--agent none --stage judge` starts no
process at all. Errors of start-up pass through as they are.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from actors.image_models import references_of_an_answer
from cluster.bench.agents import Agent, EpisodeAgent, RawPrompt, costs_nothing
from cluster.bench.identity import agent_identity
from cluster.bench.pipeline import Makers
from cluster.bench.plan import EvalPlan
from cluster.bench.scorers import KScoreScorer, Scorer, WiseScorer
from cluster.judges import open_wise_judge
from cluster.local import LocalPool
from cluster.openers import Keys, open_judge, open_toolbox, prepare_corpus, prepare_store
from cluster.parts import Mode, RolloutPool
from cluster.placement import Demand, demands, refuse_what_cannot_fit
from core.chat_completions import OpenAIChat, Price
from core.config import Config
from core.endpoint import Endpoint, Limits
from core.errors import InfraError
from core.protocols import ImageModel, Toolbox, ToolSpec
from core.records import RolloutId, Task, Trajectory
from envs.chat import ChatFormat
from envs.chat_policy import ChatPolicy
from envs.episode import EpisodeLimits, run_episode
from envs.http import AiohttpClient
from envs.images import FileImageStore
from envs.prompts import system_prompt


@contextmanager
def open_makers(
    plan: EvalPlan, config: Config, *, keys: Keys, images: FileImageStore
) -> Iterator[Makers]:
    """One maker for each stage of the plan."""
    with ExitStack() as stack:
        if plan.needs_ray(config):
            from cluster.ray_session import alive_nodes, ray_session

            stack.enter_context(ray_session(config))
            refuse_what_cannot_fit(needed_actors(plan, config), nodes=alive_nodes())
        if plan.needs_served_model(config):
            from cluster.services import start_served_model  # it imports Ray

            start_served_model(config, stack)
        yield Makers(
            agent=_agent(plan, config, keys, images, stack) if "agent" in plan.stages else None,
            image_model=_image_model(plan, config, keys, images, stack),
            scorer=_scorer(plan, config, keys) if plan.judges else None,
        )


def needed_actors(plan: EvalPlan, config: Config) -> Sequence[Demand]:
    """What the plan asks of Ray."""
    names = {
        "rollout worker": plan.needs_rollout_workers,
        "search actor": plan.needs_rollout_workers,
        "render actor": plan.needs_replicas(config),
        "served judge model": plan.needs_served_model(config),
    }
    return [demand for demand in demands(config) if names.get(demand.name, False)]


def _image_model(
    plan: EvalPlan, config: Config, keys: Keys, images: FileImageStore, stack: ExitStack
) -> ImageModel | None:
    if "render" not in plan.stages:
        return None
    from cluster.services import start_image_model  # it imports Ray

    return start_image_model(config, config.run_dir.resolve(), keys, images, stack)


def _scorer(plan: EvalPlan, config: Config, keys: Keys) -> Scorer:
    run_dir = config.run_dir.resolve()
    if plan.benchmark == "wise":
        judge = open_wise_judge(config, run_dir, api_key=keys.judge, edition=plan.edition)
        return WiseScorer(judge=judge, edition=plan.edition)
    with_text = plan.reads_answer and config.reward.text_weight > 0
    return KScoreScorer(judge=open_judge(config, run_dir, keys), with_text=with_text)


def _agent(
    plan: EvalPlan, config: Config, keys: Keys, images: FileImageStore, stack: ExitStack
) -> Agent:
    if not plan.plays_episodes:
        return RawPrompt()
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
        tools = open_toolbox(config, run_dir, keys, launch=uuid.uuid4().hex[:8])
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
    return RayPool(workers)


def _endpoint_policy(config: Config, keys: Keys, images: FileImageStore) -> ChatPolicy:
    agent = config.agent
    limits = Limits(
        per_second=agent.per_second,
        max_in_flight=agent.max_in_flight,
        timeout_s=agent.timeout_s,
        deadline_s=agent.deadline_s,
        max_tries=agent.max_tries,
    )
    # The operator names this endpoint; it may well be on a private network.
    http = AiohttpClient(may_connect=lambda address: True)
    model = OpenAIChat(
        Endpoint(http, name=f"agent {agent.model}", limits=limits, error=InfraError),
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
            ),
            temperature=config.eval.temperature,
            top_p=config.eval.top_p,
            seed=config.run.seed,
        )

    return LocalPool(None, play)
