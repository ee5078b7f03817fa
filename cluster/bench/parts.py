"""Opens what the stages of an evaluation need, and nothing else; closes it in reverse order.

Rollout workers and diffusers replicas live on Ray; the raw prompt, an endpoint that plays the
agent, API image models and judges need none, so that e.g. `--agent none --stage judge` starts no
process at all. Errors of start-up pass through as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from actors.image_models import is_api
from cluster.bench.agents import Agent, RawPrompt
from cluster.bench.pipeline import Makers
from cluster.bench.plan import EvalPlan
from cluster.bench.scorers import KScoreScorer, Scorer, WiseScorer
from cluster.judges import open_wise_judge
from cluster.openers import Keys, open_image_api, open_judge
from cluster.plan.placement import (
    SERVED_JUDGE,
    SERVED_SUMMARISER,
    Demand,
    demands,
    refuse_what_cannot_fit,
)
from core.config import Config
from core.protocols import ImageModel
from core.sections.judge import JudgeConfig
from envs.images import FileImageStore


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
        if plan.needs_served_judge(config):
            from cluster.services import start_served_judge  # it imports Ray

            start_served_judge(config, stack)
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
        SERVED_JUDGE: plan.needs_served_judge(config),
        SERVED_SUMMARISER: plan.needs_served_summariser(config),
    }
    return [demand for demand in demands(config) if names.get(demand.name, False)]


def _image_model(
    plan: EvalPlan, config: Config, keys: Keys, images: FileImageStore, stack: ExitStack
) -> ImageModel | None:
    if "render" not in plan.stages:
        return None
    run_dir = config.run_dir.resolve()
    if is_api(config.render):
        return open_image_api(config, run_dir, keys, images)
    from cluster.services import start_image_model  # it imports Ray

    return start_image_model(config, run_dir, keys, images, stack)


def _scorer(plan: EvalPlan, config: Config, keys: Keys) -> Scorer:
    run_dir = config.run_dir.resolve()
    settings = judge_settings(config.judge)
    if plan.benchmark == "wise":
        wise = open_wise_judge(config, run_dir, api_key=keys.judge, edition=plan.edition)
        return WiseScorer(judge=wise, edition=plan.edition, settings=settings)
    with_text = plan.reads_answer and config.reward.text_weight > 0
    judge = open_judge(config, run_dir, keys)
    return KScoreScorer(judge=judge, with_text=with_text, settings=settings)


def judge_settings(judge: JudgeConfig) -> str:
    """What else decides its grades; two addresses may serve different models under one name."""
    at = f" at {judge.base_url.rstrip('/')}" if judge.base_url else ""
    return f"{judge.votes} votes, {judge.max_side} pixels{at}"


def _agent(
    plan: EvalPlan, config: Config, keys: Keys, images: FileImageStore, stack: ExitStack
) -> Agent:
    if not plan.plays_episodes:
        return RawPrompt()
    from cluster.bench.players import open_player  # it imports the tokenizer's library

    return open_player(plan, config, keys, images, stack)
