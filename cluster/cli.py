"""The command line: `gensearcher train | sft | eval | demo | compare | doctor | audit |
nano build`.

Every command takes `--recipe` (a name in configs/ or a path) and any number of `section.key=value`
overrides. Exit codes: 0 done; 1 something is not as it should be (doctor, audit), or a failure with
its traceback; 2 the user's input, said in one sentence; 130 stopped by Ctrl-C.
Imports no torch and no ray: a command imports what it runs.
"""

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from cluster.bench.commands import app as eval_app
from cluster.console import Overrides, Recipe, clear_errors, console, tell
from cluster.corpus_commands import corpus_app
from cluster.quiet import quiet_ray
from cluster.signals import stopped_like_ctrl_c
from core.config import Config, default_environment, load_config, ray_address
from core.errors import ConfigError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
nano_app = typer.Typer(no_args_is_help=True, help="The models of the nano world.")
app.add_typer(eval_app, name="eval")
app.add_typer(nano_app, name="nano")
app.add_typer(corpus_app, name="corpus")


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
) -> None:
    """Train search-augmented image-generation agents on Ray."""
    level = logging.INFO if verbose else logging.WARNING
    if not verbose:
        quiet_ray()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")


@app.command()
def train(
    recipe: Recipe = "nano",
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it will need; run nothing.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Set an earlier run of this name aside.")
    ] = False,
) -> None:
    """Train; a run that was stopped goes on where its last checkpoint is."""
    with clear_errors():
        config = load_config(recipe, overrides=overrides or ())
        if plan:
            _show_plan(config, recipe)
        else:
            _train(config, recipe=recipe, fresh=fresh)


@app.command()
def demo(
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Set an unfinished demo aside.")
    ] = False,
) -> None:
    """Train the nano agent on this machine: evaluate, train, evaluate, report."""
    from cluster.run_folder import steps_done

    with clear_errors():
        config = load_config("nano", overrides=["run.name=demo", *(overrides or ())])
        finished = steps_done(config.run_dir) is not None
        _train(config, recipe="nano", fresh=fresh or finished)


@app.command()
def sft(recipe: Recipe = "nano", overrides: Overrides = None) -> None:
    """Fine-tune on `sft.data`, or on the nano world's teacher; goes on where it was stopped."""
    with clear_errors():
        config = load_config(recipe, overrides=["run.name=sft", *(overrides or ())])
        from cluster.sft import fine_tune

        with stopped_like_ctrl_c():
            policy = fine_tune(config, console=console)
    tell(f"policy: {policy}\nuse it: gensearcher train policy.path={policy}")


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="The folder of a run, e.g. runs/base.")],
    run_b: Annotated[Path, typer.Argument(help="The run that should be better.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes; else RUN_B/against_<A>.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Is run B better than run A? Paired over the tasks that both evaluated."""
    from cluster.report.compare import compare as compare_scores
    from cluster.report.compare import comparison_json, write_comparison
    from cluster.report.scores import load_scores
    from cluster.run_folder import make_folder
    from cluster.views import draw_comparison

    with clear_errors():
        found = compare_scores(load_scores(run_a), load_scores(run_b))
        folder = out or run_b / f"against_{run_a.resolve().name}"
        make_folder(folder, named="--out")
        page = write_comparison(found, folder)
    if as_json:
        typer.echo(json.dumps(comparison_json(found), indent=2))
    else:
        console.print(draw_comparison(found))
        tell(f"report: {page.resolve()}")


@app.command()
def doctor(
    recipe: Recipe = "nano",
    overrides: Overrides = None,
    mismatch: Annotated[
        Path | None,
        typer.Option(help="Ask of this checkpoint alone: do rollout and learner agree?"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what a recipe lacks on this machine, and how to mend it."""
    if mismatch is not None:
        raise typer.Exit(_compare_engines(mismatch, recipe, overrides or (), as_json=as_json))
    from cluster.check.doctor import diagnose
    from cluster.check.machine import inspect_machine
    from cluster.views import draw_checks

    with clear_errors():
        config = load_config(recipe, overrides=overrides or ())
        results = diagnose(config, recipe=recipe, machine=inspect_machine(config.run_dir))
    failed = [asdict(result) for result in results if not result.ok]
    if as_json:
        checks = [asdict(result) for result in results]
        found = {"recipe": recipe, "ok": not failed, "failed": failed, "checks": checks}
        typer.echo(json.dumps(found, indent=2))
    else:
        console.print(draw_checks(results))
    raise typer.Exit(1 if failed else 0)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="The folder of a run, e.g. runs/nano.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Add up again from its records whether a run lost, repeated or mispriced any work."""
    from cluster.check.audit import audit_json, audit_run
    from cluster.views import draw_audit

    with clear_errors():
        found = audit_run(run)
    if as_json:
        typer.echo(json.dumps(audit_json(found), indent=2))
    else:
        console.print(draw_audit(audit_json(found)))
    raise typer.Exit(0 if found.is_sound else 1)


@app.command(name="fake-web")
def fake_web(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    links: Annotated[
        Literal["absolute", "bare"],
        typer.Option(help="Page addresses: of this server, or as the encyclopedia has them."),
    ] = "absolute",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Serve the nano encyclopedia on loopback as every search provider would; Ctrl-C ends it."""
    from cluster.fake_web import serve_fake_web

    with clear_errors():
        serve_fake_web(port, links=links, as_json=as_json, say=typer.echo)


@nano_app.command(name="build")
def nano_build(
    out: Annotated[Path, typer.Option(help="Where the two model folders go.")] = Path(
        "models/nano"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    part: Annotated[
        Literal["policy", "renderer", "both"], typer.Option(help="Which of the two models.")
    ] = "both",
) -> None:
    """Train the nano policy and renderer from nothing; an interrupted build goes on."""
    from cluster.nano.build import build_nano
    from cluster.run_folder import make_folder

    with clear_errors():
        make_folder(out, named="--out")
        build_nano(out, seed=seed, part=part, console=console)


def _train(config: Config, *, recipe: str, fresh: bool) -> None:
    _get_ready(config, recipe=recipe, fresh=fresh)
    from cluster.plan.plan import plan_or_none
    from cluster.run import train_run
    from cluster.views import draw_memory

    if (plan := plan_or_none(config, recipe=recipe)) is not None:
        console.print(draw_memory(plan))

    summary = train_run(config, resume=not fresh, console=console)
    tell(f"report: {summary.with_name('report.html').resolve()}\nsummary: {summary.resolve()}")


def _get_ready(config: Config, *, recipe: str, fresh: bool) -> None:
    """Everything that can be refused before an engine starts. Raises ConfigError."""
    from cluster.check.doctor import refuse_unready
    from cluster.run_folder import set_aside, steps_done

    refuse_unready(config, recipe=recipe)
    if fresh:
        if (other := set_aside(config.run_dir)) is not None:
            tell(f"the earlier run is kept in {other}")
        return
    done = steps_done(config.run_dir)
    if done is not None and done >= config.train.steps:
        raise ConfigError(
            f"run.name: {config.run.name!r} has done its {done} steps; take another name, raise "
            "train.steps, or start again with --fresh"
        )


def _compare_engines(
    checkpoint: Path, recipe: str, overrides: Sequence[str], *, as_json: bool
) -> int:
    """The exit code of `doctor --mismatch`."""
    from actors.runtime_env import worker_env
    from cluster.run_folder import policy_of_checkpoint

    with clear_errors():
        path = policy_of_checkpoint(checkpoint)
        config = load_config(recipe, overrides=[*overrides, f"policy.path={path}"])
        for name, value in worker_env(config).items():
            default_environment(name, value)  # before the engines' libraries are imported
        with redirect_stdout(sys.stderr):  # engines log to where the answer goes
            from cluster.check.mismatch import check_mismatch, mismatch_json

            found = {"checkpoint": str(path), **mismatch_json(check_mismatch(config))}
    from cluster.views import draw_mismatch

    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        console.print(draw_mismatch(found))
    return 0 if found["ok"] else 1


def _show_plan(config: Config, recipe: str) -> None:
    """And whether it fits here; a plan for another machine is no error."""
    from cluster.check.doctor import check_gpus, check_host_memory
    from cluster.check.machine import inspect_machine
    from cluster.plan.plan import make_plan
    from cluster.views import draw_checks, draw_plan

    plan, machine = make_plan(config, recipe=recipe), inspect_machine(config.run_dir)
    joined = ray_address(config)
    console.print(draw_plan(plan))
    console.print("\non this machine", style="bold")
    fits = (
        check_gpus(config, plan, machine, joined=joined),
        check_host_memory(plan, machine, joined=joined),
    )
    console.print(draw_checks(fits))


if __name__ == "__main__":
    app()
