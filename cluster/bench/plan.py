"""What one evaluation is: which benchmark, played by whom, how far, and what of a machine it needs.

In: the user's choices. Out: an `EvalPlan`, whose properties say which parts have to be opened.
Raises ConfigError for choices that do not go together.
"""

from dataclasses import dataclass
from pathlib import Path

from actors.image_models import is_api
from cluster.bench.choices import AgentKind, Benchmark, Missing, Stage
from cluster.bench.rules import Rules, knowgen_rules, nano_rules, wise_rules
from core.config import Config
from core.errors import ConfigError
from core.protocols import ImageStore
from envs.benchmarks import (
    BenchTask,
    PromptFormat,
    load_knowgen,
    load_prompts,
    load_wise,
    pick,
)
from envs.tasks import open_heldout_tasks
from rewards.wise import WiseEdition, wise_category


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPlan:
    benchmark: Benchmark
    agent: AgentKind
    stages: tuple[Stage, ...]
    """Those that are run; the rows of the others are taken as they are on disk."""
    missing: Missing
    data: Path | None = None
    """The benchmark's file or folder; None for nano."""
    limit: int | None = None
    edition: WiseEdition = "verified"
    format: PromptFormat = "geneval"

    @property
    def title(self) -> str:
        """The benchmark and which one of it, e.g. "wise legacy"."""
        match self.benchmark:
            case "wise":
                return f"wise {self.edition}"
            case "prompts":
                return self.format
            case _:
                return self.benchmark

    @property
    def plays_episodes(self) -> bool:
        return "agent" in self.stages and self.agent != "none"

    @property
    def needs_rollout_workers(self) -> bool:
        return self.plays_episodes and self.agent != "openai"

    def needs_replicas(self, config: Config) -> bool:
        return "render" in self.stages and not is_api(config.render)

    def needs_served_judge(self, config: Config) -> bool:
        return self.judges and config.judge.kind == "served"

    def needs_served_summariser(self, config: Config) -> bool:
        return self.plays_episodes and config.tools.served_summariser is not None

    def needs_ray(self, config: Config) -> bool:
        needs = (
            self.needs_replicas(config),
            self.needs_served_judge(config),
            self.needs_served_summariser(config),
        )
        return self.needs_rollout_workers or any(needs)

    @property
    def judges(self) -> bool:
        return "judge" in self.stages and self.benchmark != "prompts"

    @property
    def fallback(self) -> bool:
        """The raw prompt stands in for a missing answer, as in the paper's inference; the nano
        world gives such an episode the floor, as training does."""
        return self.benchmark != "nano"

    @property
    def reads_answer(self) -> bool:
        """The nano world's score holds the text reward, which is of the answer."""
        return self.benchmark == "nano"


def rules_of(plan: EvalPlan, config: Config) -> Rules:
    match plan.benchmark:
        case "wise":
            return wise_rules(plan.edition)
        case "nano":
            text_weight = config.reward.text_weight
            return nano_rules(config.reward.na_rule, text_weight=text_weight)
        case _:
            return knowgen_rules(config.reward.na_rule)


def load_tasks(plan: EvalPlan, config: Config, *, images: ImageStore) -> tuple[BenchTask, ...]:
    """The benchmark's tasks, at most `limit` of them. Raises ConfigError, DataError."""
    if plan.benchmark == "nano":
        changes = {"num_tasks": plan.limit} if plan.limit else {}
        narrowed = config.model_copy(update={"eval": config.eval.model_copy(update=changes)})
        tasks = open_heldout_tasks(narrowed, images=images)
        return tuple(
            BenchTask(task=task, row_id=task.task_id, label=task.meta.category) for task in tasks
        )
    if plan.data is None:
        raise ConfigError(f"--data: {plan.benchmark} needs the benchmark's own file")
    match plan.benchmark:
        case "knowgen":
            found = load_knowgen(plan.data, images=images)
        case "wise":
            found = load_wise(
                plan.data,
                category_of=lambda prompt_id: wise_category(prompt_id, edition=plan.edition),
            )
        case "prompts":
            found = load_prompts(plan.data, format=plan.format)
    return pick(found, plan.limit)
