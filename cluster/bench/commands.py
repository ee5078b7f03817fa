"""`gensearcher eval nano | knowgen | wise | prompts`: benchmarks through one staged evaluation.

Exit codes are those of every command; `--missing fail` ends with 1 while a row has no score.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cluster.bench.choices import STAGES, AgentKind, Missing, Stage
from cluster.console import Overrides, Recipe, clear_errors, console, errors, tell
from core.config import Config, load_config
from core.errors import ConfigError
from core.sections.run import RUN_NAME

if TYPE_CHECKING:
    from cluster.bench.plan import EvalPlan

app = typer.Typer(no_args_is_help=True, help="Evaluate; a run that was stopped goes on.")

FAILED_ROWS = 1

Data = Annotated[Path, typer.Option("--data", help="The benchmark's file, from your checkout.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="A checkpoint of a run, or a policy's folder.")
]
AgentChoice = Annotated[AgentKind, typer.Option("--agent", help="Who writes the prompts.")]
StageChoice = Annotated[
    Literal["agent", "render", "judge", "all"],
    typer.Option("--stage", help="One stage alone takes the rows before it as they are on disk."),
]
MissingChoice = Annotated[
    Missing, typer.Option(help="What a row without a score counts as in the headline.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many tasks, always the same.")]
Out = Annotated[
    Path | None, typer.Option(help="The folder of the results; else runs/eval-NAME-AGENT.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command()
def nano(
    recipe: Recipe = "nano",
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    agent: AgentChoice = "checkpoint",
    stage: StageChoice = "all",
    missing: MissingChoice = "zero",
    limit: Limit = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """The recipe's own held-out tasks, scored as in training."""
    with clear_errors():
        config = _config(recipe, overrides, "nano", out=out, agent=agent, checkpoint=checkpoint)
        from cluster.bench.plan import EvalPlan

        stages = _stages(stage)
        plan = EvalPlan(benchmark="nano", agent=agent, stages=stages, missing=missing, limit=limit)
        _evaluate(plan, config, as_json=as_json)


@app.command()
def knowgen(
    data: Data,
    recipe: Recipe = "gen-searcher-8b",
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    agent: AgentChoice = "checkpoint",
    stage: StageChoice = "all",
    missing: MissingChoice = "zero",
    limit: Limit = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """KnowGen (KnowGen-Bench.json), with K-Score."""
    with clear_errors():
        config = _config(recipe, overrides, "knowgen", out=out, agent=agent, checkpoint=checkpoint)
        from cluster.bench.plan import EvalPlan

        plan = EvalPlan(
            benchmark="knowgen",
            agent=agent,
            stages=_stages(stage),
            missing=missing,
            limit=limit,
            data=data,
        )
        _evaluate(plan, config, as_json=as_json)


@app.command()
def wise(
    data: Data,
    recipe: Recipe = "gen-searcher-8b",
    overrides: Overrides = None,
    edition: Annotated[
        Literal["legacy", "verified"], typer.Option(help="legacy is the one in the paper.")
    ] = "verified",
    checkpoint: Checkpoint = None,
    agent: AgentChoice = "checkpoint",
    stage: StageChoice = "all",
    missing: MissingChoice = "zero",
    limit: Limit = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """WISE in one of its editions (merge.json, a category's file, or their folder)."""
    with clear_errors():
        name = f"wise-{edition}"
        config = _config(recipe, overrides, name, out=out, agent=agent, checkpoint=checkpoint)
        from cluster.bench.plan import EvalPlan

        plan = EvalPlan(
            benchmark="wise",
            agent=agent,
            stages=_stages(stage),
            missing=missing,
            limit=limit,
            data=data,
            edition=edition,
        )
        _evaluate(plan, config, as_json=as_json)


@app.command()
def prompts(
    data: Data,
    recipe: Recipe = "gen-searcher-8b",
    overrides: Overrides = None,
    format: Annotated[
        Literal["agentgen", "geneval"], typer.Option(help="Whose file it is.")
    ] = "geneval",
    checkpoint: Checkpoint = None,
    agent: AgentChoice = "checkpoint",
    stage: Annotated[Literal["agent", "render", "all"], typer.Option("--stage")] = "all",
    limit: Limit = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Pictures for AgentGen-Bench or GenEval; their own tools score them."""
    with clear_errors():
        config = _config(recipe, overrides, format, out=out, agent=agent, checkpoint=checkpoint)
        from cluster.bench.plan import EvalPlan

        plan = EvalPlan(
            benchmark="prompts",
            agent=agent,
            stages=("agent", "render") if stage == "all" else (stage,),
            missing="skip",
            limit=limit,
            data=data,
            format=format,
        )
        _evaluate(plan, config, as_json=as_json)


def _config(
    recipe: str,
    overrides: list[str] | None,
    name: str,
    *,
    out: Path | None,
    agent: AgentKind,
    checkpoint: Path | None,
) -> Config:
    """The recipe with what the options mean for it. Raises ConfigError."""
    from cluster.run_folder import policy_of_checkpoint

    changes = [f"run.name=eval-{name}{_of_agent(agent, checkpoint)}"]
    if out is not None:
        if not re.fullmatch(RUN_NAME, out.resolve().name):
            raise ConfigError(
                f"--out: {out.resolve().name!r} is also the evaluation's name; "
                "use letters, digits, '.', '_' and '-'"
            )
        changes = [f"run.root={out.resolve().parent}", f"run.name={out.resolve().name}"]
    if agent == "workflow":
        changes.append("policy.system_prompt=full")
    changes += overrides or ()
    if checkpoint is not None:
        if agent != "checkpoint":
            raise ConfigError(f"--checkpoint: --agent {agent} plays without one; leave one of both")
        changes.append(f"policy.path={policy_of_checkpoint(checkpoint)}")
    return load_config(recipe, overrides=changes)


def _of_agent(agent: AgentKind, checkpoint: Path | None) -> str:
    """So that two agents of one benchmark, which will be compared, have folders of their own."""
    if agent != "checkpoint":
        return f"-{agent}"
    if checkpoint is None:
        return ""
    path = checkpoint.resolve()
    run = f"-{path.parent.parent.name}" if path.parent.name == "checkpoints" else ""
    return f"{run}-{path.name}"


def _stages(stage: Literal["agent", "render", "judge", "all"]) -> tuple[Stage, ...]:
    return STAGES if stage == "all" else (stage,)


def _evaluate(plan: "EvalPlan", config: Config, *, as_json: bool) -> None:
    from cluster.bench.run import run_evaluation
    from cluster.bench.screen import draw_evaluation

    tree: dict[str, Any] = run_evaluation(plan, config, console=errors if as_json else console)
    if as_json:
        typer.echo(json.dumps(tree, indent=2))
    else:
        console.print(draw_evaluation(tree))
        tell(f"report: {(config.run_dir / 'report.html').resolve()}")
    missing = tree["n"] - tree["scored"]
    if plan.missing == "fail" and plan.judges and missing:
        lost = "1 task has" if missing == 1 else f"{missing} tasks have"
        errors.print(f"{lost} no score; run again to try them again")
        raise typer.Exit(FAILED_ROWS)
