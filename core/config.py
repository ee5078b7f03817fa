"""The one config tree: YAML recipe + dotted overrides -> `Config`. Imports no torch, no ray.

    config = load_config("nano", overrides=["train.steps=2", "learner.lr=1e-4"])

A recipe is a name in configs/ or a path. Unknown keys are refused with the nearest known name.
The sections stand in core/sections/. This is the only module that reads the environment (`secret`).
"""

import difflib
import os
import re
import types
import typing
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ValidationError, model_validator

from core.determinism import refusals
from core.errors import ConfigError
from core.files import write_atomic
from core.sections.agent import AgentConfig
from core.sections.base import Section
from core.sections.judge import JudgeConfig
from core.sections.learner import LearnerConfig, SftConfig
from core.sections.run import (
    ClusterConfig,
    EvalConfig,
    PolicyConfig,
    RolloutConfig,
    RunConfig,
    TasksConfig,
    TrainConfig,
    WandbConfig,
)
from core.sections.scoring import RenderConfig, RewardConfig
from core.sections.tools import ToolsConfig

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
RECIPES = Path(__file__).resolve().parent.parent / "configs"


class Config(Section):
    """One run, whole."""

    run: RunConfig = RunConfig()
    policy: PolicyConfig = PolicyConfig()
    agent: AgentConfig = AgentConfig()
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

    @model_validator(mode="after")
    def _a_price_on_length_leaves_some_free(self) -> Self:
        buffer, limit = self.learner.overlong_buffer, self.rollout.max_context
        if buffer is not None and buffer >= limit:
            raise ValueError(
                f"learner.overlong_buffer is {buffer}, so that every episode costs; keep it below "
                f"rollout.max_context, which is {limit}"
            )
        return self

    @model_validator(mode="after")
    def _an_episode_that_hangs_ends_before_the_run(self) -> Self:
        limit = self.train.stall_timeout_s
        if self.episode_timeout_s >= limit:
            raise ValueError(
                f"rollout.episode_timeout_s is {self.episode_timeout_s:g}, so that an episode that "
                f"hangs ends the run; keep it below train.stall_timeout_s, which is {limit:g}"
            )
        return self

    @model_validator(mode="after")
    def _adapters_reach_their_engine(self) -> Self:
        rank, devices = self.learner.lora_rank, self.rollout.tensor_parallel
        if rank is not None and devices > 1:
            raise ValueError(
                f"learner.lora_rank is {rank} and rollout.tensor_parallel is {devices}, but the "
                "processes of one engine take whole weights, not adapters; set "
                "rollout.tensor_parallel=1, or learner.lora_rank=null"
            )
        return self

    @model_validator(mode="after")
    def _is_repeatable(self) -> Self:
        if self.run.deterministic and (clauses := refusals(self)):
            raise ValueError(f"run.deterministic is true, so that {', '.join(clauses)}")
        return self

    @property
    def episode_timeout_s(self) -> float:
        return self.rollout.episode_timeout_s or 0.8 * self.train.stall_timeout_s

    @property
    def run_dir(self) -> Path:
        return Path(self.run.root) / self.run.name


def load_config(recipe: str, *, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply `section.key=value` overrides. Raises ConfigError."""
    path = _recipe_path(recipe)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
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


class _UniqueKeys(yaml.SafeLoader):
    """YAML's last of two equal keys wins without a word; here the second is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[Any, yaml.Mark] = {}
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(name, Hashable):
                continue  # refused just below, in YAML's own words
            if name in first:
                raise ConfigError(
                    f"{name!r} stands twice in one section, in lines {first[name].line + 1} and "
                    f"{key.start_mark.line + 1}; remove one of them"
                )
            first[name] = key.start_mark
        return super().construct_mapping(node, deep)


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
    """A YAML value, except that 1e-4 is a number (YAML 1.1 reads it as text), and that nothing is
    an empty text: a shell takes the quotes off `judge.api_key_env=""`."""
    if not text:
        return ""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the value {text!r} of an override is not valid YAML: {error}"
        ) from error
    bare = isinstance(value, str) and value == text.strip()  # "7" in quotes stays a text
    return float(value) if bare and _EXPONENT.fullmatch(value) else value


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
        hint = f"did you mean {near[0]!r}?" if near else "see core/sections/ for the known keys"
        return f"{field}: unknown key; {hint}"
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        return str(item["ctx"]["error"])  # of a whole section: the sentence names the field
    quoted = f"; quote it: '{field}=\"...\"'" if item["type"] == "string_type" else ""
    return f"{field}: {item['msg']}, got {item['input']!r}{quoted}"
