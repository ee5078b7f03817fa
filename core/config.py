"""The one config tree: YAML recipe + dotted overrides -> `Config`. Imports no torch, no ray.

    config = load_config("nano", overrides=["train.steps=2", "learner.lr=1e-4"])

A recipe is a name in configs/ or a path. Unknown keys are refused with the nearest known name.
This is the only module that reads the environment (`secret`).
"""

import difflib
import os
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import ConfigError
from core.files import write_atomic
from core.records import StopReason

RECIPES = Path(__file__).resolve().parent.parent / "configs"


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class RunConfig(_Section):
    name: str = Field("nano", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Everything of the run goes to runs/<name>/."""
    root: str = "runs"
    seed: int = Field(0, ge=0)


class PolicyConfig(_Section):
    path: str = "models/nano/policy"
    """A Hugging Face folder (or hub id) of a Qwen3-VL model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    system_prompt: Literal["nano", "full"] = "nano"
    """Which of envs/prompts.py the policy is given."""


class TasksConfig(_Section):
    source: Literal["nano", "rl_data", "knowgen"] = "nano"
    path: str | None = None
    """The JSON file of rl_data or knowgen; unused for nano."""
    shuffle: bool = True


class ToolsConfig(_Section):
    search: Literal["nano", "serper"] = "nano"
    top_k: int = Field(3, ge=1, le=20)
    """Results of one query, and images of one image search."""
    max_images_per_search: int = Field(3, ge=1, le=5)
    timeout_s: float = Field(30.0, gt=0)
    cache_path: str | None = None
    """SQLite file of the tool cache; None: runs/<name>/tools.sqlite."""


class RolloutConfig(_Section):
    num_workers: int = Field(1, ge=1)
    num_cpus_per_worker: float = Field(0.5, ge=0)
    num_gpus_per_worker: float = Field(0.0, ge=0)
    tensor_parallel: int = Field(1, ge=1)
    max_turns: int = Field(10, ge=1)
    """Calls of the policy in one episode; the last one must be an answer."""
    max_tokens_per_turn: int = Field(4096, ge=1)
    max_context: int = Field(36_000, ge=64)
    """Tokens of one episode, image tokens counted."""
    max_parallel_episodes: int = Field(64, ge=1)
    temperature: float = Field(0.7, gt=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    kv_cache_gib: float = Field(1.0, gt=0)
    """Of one worker, shared by its devices."""
    max_sequences: int = Field(64, ge=1)
    """Sequences that one engine runs at once."""


class RenderConfig(_Section):
    pipeline: Literal["nano", "qwen-image-edit", "qwen-image"] = "nano"
    path: str = "models/nano/renderer"
    dtype: Literal["float32", "bfloat16"] = "float32"
    steps: int = Field(4, ge=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """One render per seed; their scores are averaged."""
    width: int = Field(32, ge=16)
    height: int = Field(32, ge=16)
    true_cfg_scale: float = Field(1.0, ge=0)
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    num_cpus_per_replica: float = Field(0.2, ge=0)
    num_gpus_per_replica: float = Field(0.0, ge=0)
    timeout_s: float = Field(120.0, gt=0)


class JudgeConfig(_Section):
    kind: Literal["pixels", "openai"] = "pixels"
    model: str = ""
    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = Field(60.0, gt=0)
    max_tries: int = Field(3, ge=1)
    max_in_flight: int = Field(16, ge=1)


class RewardConfig(_Section):
    text_weight: float = Field(0.5, ge=0, le=1)
    """a in R = (1-a) R_image + a R_text."""
    na_rule: Literal["renormalise", "paper"] = "renormalise"


class LearnerConfig(_Section):
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of compute; master weights are float32 when this is bfloat16."""
    num_cpus: float = Field(0.5, ge=0)
    zero_stage: Literal[1, 2, 3] = 1
    lr: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(5, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.28, gt=0)
    advantage_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO); False: Dr.GRPO."""
    loss_aggregation: Literal["token_mean", "seq_mean_token_sum"] = "token_mean"
    tis_cap: float | None = Field(2.0, gt=0)
    """Cap of the truncated importance weight of off-policy tokens; None: off."""
    updates_per_step: int = Field(1, ge=1)
    """Optimizer steps that one batch of groups is split into."""
    micro_batch_tokens: int = Field(8192, ge=64)
    freeze_vision: bool = True


class TrainConfig(_Section):
    steps: int = Field(60, ge=1)
    groups_per_step: int = Field(8, ge=1)
    group_size: int = Field(6, ge=2)
    max_staleness: int = Field(0, ge=0, le=1)
    """Versions between a trajectory's oldest token and the learner; 0 = sync, 1 = one step off."""
    masked_stop_reasons: tuple[StopReason, ...] = ()
    max_reissues: int = Field(2, ge=0)
    """How often a member is tried again after a failure of ours."""
    max_empty_batches: int = Field(5, ge=1)
    """Batches in a row without any gradient before the run stops and says why."""
    stall_timeout_s: float = Field(300.0, gt=0)
    checkpoint_every: int = Field(20, ge=1)
    keep_checkpoints: int = Field(2, ge=1)


class EvalConfig(_Section):
    every: int = Field(0, ge=0)
    """Steps between held-out evaluations during training; 0: only before and after."""
    num_tasks: int = Field(256, ge=1)
    temperature: float = Field(0.6, gt=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)
    max_parallel_episodes: int = Field(64, ge=1)
    num_showcase: int = Field(6, ge=0)
    """Held-out tasks that the report shows before and after."""


class SftConfig(_Section):
    data: str | None = None
    """A ShareGPT JSON file; None: trajectories of the nano teacher."""
    steps: int = Field(50, ge=1)
    lr: float = Field(1e-4, gt=0)
    batch_size: int = Field(8, ge=1)


class WandbConfig(_Section):
    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "gensearcher"


class ClusterConfig(_Section):
    address: str | None = None
    """None: RAY_ADDRESS if set (a submitted job), else a local Ray."""
    search_num_cpus: float = Field(0.1, ge=0)
    judge_num_cpus: float = Field(0.1, ge=0)
    object_store_gib: float = Field(0.5, gt=0)


class Config(_Section):
    """One run, whole."""

    run: RunConfig = RunConfig()
    policy: PolicyConfig = PolicyConfig()
    tasks: TasksConfig = TasksConfig()
    tools: ToolsConfig = ToolsConfig()
    rollout: RolloutConfig = RolloutConfig()
    render: RenderConfig = RenderConfig()
    judge: JudgeConfig = JudgeConfig()
    reward: RewardConfig = RewardConfig()
    learner: LearnerConfig = LearnerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    sft: SftConfig = SftConfig()
    wandb: WandbConfig = WandbConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def run_dir(self) -> Path:
        return Path(self.run.root) / self.run.name


def load_config(recipe: str, *, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply `section.key=value` overrides. Raises ConfigError."""
    path = _recipe_path(recipe)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, not {type(tree).__name__}")
    for override in overrides:
        _apply_override(tree, override)
    return build_config(tree)


def build_config(tree: dict[str, Any]) -> Config:
    """A tree of plain values as a Config. Raises ConfigError that names every bad field."""
    known = sorted(_known_keys(Config))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        sentences = [_sentence(dict(item), known) for item in error.errors()]
        raise ConfigError("; ".join(sentences)) from error


def save_config(config: Config, path: Path) -> None:
    """The resolved tree, as YAML that `load_config` reads back unchanged."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_atomic(path, text.encode())


def secret(name: str) -> str:
    """An API key from the environment. Raises ConfigError that names the variable."""
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(f"the environment variable {name} is not set; export it before the run")
    return value


def has_secret(name: str) -> bool:
    return bool(os.environ.get(name, ""))


def ray_address(config: Config) -> str | None:
    """The Ray to join: `cluster.address`, else RAY_ADDRESS; None: start a local one."""
    return config.cluster.address or os.environ.get("RAY_ADDRESS") or None


def default_environment(name: str, value: str) -> None:
    """For a library that reads a setting from nowhere else; what the user exported wins."""
    os.environ.setdefault(name, value)


def _recipe_path(recipe: str) -> Path:
    for path in (Path(recipe), RECIPES / f"{recipe}.yaml"):
        if path.is_file():
            return path
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    near = difflib.get_close_matches(recipe, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known recipes: {', '.join(names)}"
    raise ConfigError(f"recipe {recipe!r} is neither a file nor a name in configs/; {hint}")


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} must look like section.key=value")
    *parents, leaf = key.split(".")
    node = tree
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {name!r} is a value, not a section")
    node[leaf] = _parse_value(value)


def _parse_value(text: str) -> Any:
    """A YAML value, except that 1e-4 is a number (YAML 1.1 reads it as text)."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the value {text!r} of an override is not valid YAML: {error}"
        ) from error
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for kind in _union_members(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _known_keys(kind, f"{prefix}{name}.")


def _union_members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _sentence(item: dict[str, Any], known: Sequence[str]) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "see core/config.py for the known keys"
        return f"{field}: unknown key; {hint}"
    return f"{field}: {item['msg']}, got {item['input']!r}"
