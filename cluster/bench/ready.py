"""Everything about an evaluation that can be refused before anything starts, and its keys.

In: a plan and a Config. Raises ConfigError: one sentence for all that is missing, each with its
mend. Only what the plan's stages use is asked for.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.bench.plan import EvalPlan
from cluster.check.doctor import (
    CheckResult,
    check_image_model,
    check_judge,
    check_judge_key,
    check_key,
    check_model_files,
    check_packages,
    check_python,
    check_ray,
    check_search_key,
    refuse,
)
from cluster.check.machine import inspect_machine
from cluster.openers import Keys, read_keys
from cluster.run_folder import held_folder
from core.config import Config, ray_address, secret
from core.errors import ConfigError
from core.files import write_json_atomic
from core.sections.judge import JudgeConfig
from core.sections.scoring import RenderConfig
from core.sections.tools import ToolsConfig

CLAIM = "benchmark.json"
"""In the folder of an evaluation: what it evaluates."""


def refuse_unready(plan: EvalPlan, config: Config) -> None:
    _refuse_settings(plan, config)
    machine = inspect_machine(config.run_dir)
    checks: list[CheckResult] = [check_python(machine), check_packages(machine)]
    if plan.needs_ray(config):
        checks.append(check_ray(ray_address(config)))
    renders = "render" in plan.stages
    checks.append(check_model_files(config, policy=plan.plays_episodes, renderer=renders))
    if plan.plays_episodes:
        checks.append(check_search_key(config))
        if plan.agent == "openai" and config.agent.api_key_env:
            checks.append(check_key("agent_key", config.agent.api_key_env, config.agent.model))
    if renders:
        checks.append(check_image_model(config))
    if plan.judges:
        if plan.benchmark == "nano":  # the recipe's own tasks, which need not be the nano world's
            checks.append(check_judge(config))
        checks.append(check_judge_key(config))
    refuse(checks)


def read_needed_keys(plan: EvalPlan, config: Config) -> Keys:
    """Only those that the plan's stages use: a stage that is not run asks for no key."""
    unused = {
        "tools": ToolsConfig() if not plan.plays_episodes else config.tools,
        "judge": JudgeConfig() if not plan.judges else config.judge,
        "render": RenderConfig() if "render" not in plan.stages else config.render,
    }
    keys = read_keys(config.model_copy(update=unused))
    asks = plan.plays_episodes and plan.agent == "openai" and config.agent.api_key_env
    agent = secret(config.agent.api_key_env) if asks else ""
    return Keys(providers=keys.providers, judge=keys.judge, render=keys.render, agent=agent)


@contextmanager
def claimed_folder(plan: EvalPlan, folder: Path) -> Iterator[None]:
    """The folder is this benchmark's own, and inside this process's own: two would pay twice.

    Raises ConfigError when it is a training run's, another benchmark's or another process's.
    """
    path = folder / CLAIM
    claimed = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if claimed is None and (folder / "config.yaml").is_file():
        raise ConfigError(f"--out {folder} is the folder of a run; name one of its own")
    if claimed not in (None, plan.title):
        raise ConfigError(
            f"--out {folder} holds an evaluation of {claimed}, not of {plan.title}; name another"
        )
    with held_folder(folder):
        write_json_atomic(path, plan.title)
        yield


def _refuse_settings(plan: EvalPlan, config: Config) -> None:
    if len(config.render.seeds) != 1:
        raise ConfigError(
            f"render.seeds: {list(config.render.seeds)} has {len(config.render.seeds)} seeds; an "
            "evaluation draws one picture per task, so give one"
        )
    if plan.judges and plan.benchmark != "nano" and config.judge.kind == "pixels":
        raise ConfigError(
            "judge.kind: 'pixels' reads only the flags of the nano world; "
            "set judge.kind=openai and judge.model"
        )
    if plan.benchmark == "wise" and plan.data is not None:
        other = "legacy" if plan.edition == "verified" else "verified"
        named = " ".join(plan.data.resolve().parts[-3:])
        if other in named and plan.edition not in named:
            raise ConfigError(
                f"--data {plan.data} is the {other} edition by its name, whose ids mean other "
                f"categories; add --edition {other}"
            )
    if plan.agent == "openai" and "agent" in plan.stages and not config.agent.model:
        raise ConfigError("agent.model: none is set; --agent openai needs agent.model=<name>")
