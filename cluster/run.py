"""A whole run: held-out before, training, held-out after, and the summary and report of it.

Enters: a Config that the doctor has passed. Leaves: runs/<name>/summary.json and report.html
beside what the recorder and the tracker wrote. A run that was stopped goes on where its last
checkpoint is. Errors of start-up pass through as they are; Ctrl-C leaves a checkpoint and raises
KeyboardInterrupt.
"""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from cluster.evaluate import EvalResult
from cluster.launch import System, launch
from cluster.openers import read_keys
from cluster.report.report import write_report
from cluster.report.run_summary import WallClock, summary_json
from cluster.report.summary import load_heldouts, make_heldout, save_heldout
from cluster.run_folder import SUMMARY, held_folder
from cluster.signals import stopped_like_ctrl_c
from cluster.track.canary import Canary, open_canary
from cluster.track.memory import PeakMemory
from cluster.track.screen import Screen
from cluster.track.status import StepReport
from cluster.track.tracked_heldout import track_heldout
from cluster.track.tracking import Tracker
from core.config import Config
from core.files import write_json_atomic

When = Literal["before", "step", "after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A system that is up, and where its held-out results go."""

    system: System
    tracker: Tracker
    wall: WallClock
    canary: Canary | None
    """Fixed rows that show whether the judge drifts; None: off."""

    def evaluate(self, when: When) -> None:
        """Play the held-out tasks with the present policy; keep and track what came out."""
        with self.wall.stage(f"evaluate_{when}"):
            result = self.system.evaluate()
        self._keep(result, when)

    def train(self, screen: Screen) -> None:
        """Train to the end, evaluating every `eval.every` steps."""
        if self.system.step == 0:
            self._ask_canary()  # the baseline
        elif self._lacks_evaluation(self.system.step):
            self._begin_evaluation()  # it was under way when the run was stopped

        def on_step(report: StepReport) -> None:
            metrics = report.metrics
            if self.canary and report.step % self.system.config.judge.canary_every == 0:
                metrics = {**metrics, **self._ask_canary()}
                self.system.recorder.step(report.step, metrics)  # the later row of a step counts
            self.tracker.log(metrics, step=report.step)
            screen.step_done(report.metrics.get("reward/mean"))
            if self.system.controller.evaluations.is_over:
                self._finish_evaluation()
            if self._evaluates(report.step):
                self._begin_evaluation()

        with self.wall.stage("train"):
            self.system.train(on_step=on_step)
            self._finish_evaluation()

    def _evaluates(self, step: int) -> bool:
        every, total = self.system.config.eval.every, self.system.config.train.steps
        return every > 0 and step % every == 0 and step < total

    def _lacks_evaluation(self, step: int) -> bool:
        known = {heldout.step for heldout in load_heldouts(self.system.config.run_dir)}
        return self._evaluates(step) and step not in known

    def _begin_evaluation(self) -> None:
        """Beside training, unless the run has to be the same bit for bit: which episodes share a
        batch of the engine then follows from the clock."""
        self._finish_evaluation()
        self.system.begin_evaluation()
        if self.system.config.run.deterministic:
            self._finish_evaluation()

    def _finish_evaluation(self) -> None:
        """Harmless when none was begun."""
        if not self.system.controller.evaluations.is_begun:
            return
        with self.wall.stage("evaluate_step"):
            result = self.system.finish_evaluation()
        if result is not None:
            self._keep(result, "step")

    def _keep(self, result: EvalResult, when: When) -> None:
        config, step = self.system.config, result.policy_version
        heldout = make_heldout(
            result.members, when=when, step=step, num_showcase=config.eval.num_showcase
        )
        save_heldout(heldout, config.run_dir)
        if config.train.keep_best and (reward := heldout.estimates.get("reward")):
            self.system.checkpoints.note_reward(reward.mean, step=step)
        images = self.system.services.images
        track_heldout(self.tracker, heldout, members=result.members, images=images)

    @property
    def why_it_stopped(self) -> str | None:
        """One sentence; None when it was trained to the end."""
        system, train = self.system, self.system.config.train
        if system.step >= train.steps:
            return None
        has_one = system.checkpoints.latest() is not None
        then = "goes on from the last checkpoint" if has_one else "begins to train"
        return (
            f"stopped after step {system.step} of {train.steps}: the run has cost "
            f"${system.spending.total_usd:.2f}, and train.budget_usd is {train.budget_usd:g}; "
            f"raise it, and the same command {then}"
        )

    def _ask_canary(self) -> Mapping[str, float]:
        return self.system.controller.run(self.canary.ask()) if self.canary else {}


def train_run(config: Config, *, resume: bool, console: Console) -> Path:
    """Everything from start-up to the report; returns the path of summary.json."""
    with held_folder(config.run_dir):
        return _train(config, config.run_dir, resume=resume, console=console)


def _train(config: Config, folder: Path, *, resume: bool, console: Console) -> Path:
    wall = WallClock()
    with ExitStack() as stack:
        memory = stack.enter_context(PeakMemory())
        run = _start(config, resume=resume, wall=wall, stack=stack, console=console)
        stack.enter_context(stopped_like_ctrl_c())
        known = {heldout.when for heldout in load_heldouts(folder)}
        screen = Screen(console, title=config.run.name, read_status=run.system.status)
        with screen:
            if run.system.step == 0 and "before" not in known:
                run.evaluate("before")
            run.train(screen)
            stopped = run.why_it_stopped
            if stopped is None:
                run.evaluate("after")
        steps, tools = run.system.step, run.system.tool_counters()
    if stopped is not None:
        console.print(stopped, style="yellow", highlight=False)
    summary = summary_json(
        config,
        steps=steps,
        wall=wall,
        peak_memory_gib=memory.peak_gib,
        tools=tools,
        stopped=stopped,
    )
    write_json_atomic(folder / SUMMARY, summary)
    write_report(folder)
    return folder / SUMMARY


def _start(
    config: Config, *, resume: bool, wall: WallClock, stack: ExitStack, console: Console
) -> Run:
    tracker = stack.enter_context(closing(Tracker(config)))
    with wall.stage("start"), console.status("starting Ray, the engines and the tools"):
        system = stack.enter_context(launch(config, resume=resume))
    canary = open_canary(config, config.run_dir.resolve(), read_keys(config))
    if canary is not None:
        system.spending.add_source("canary", canary.spent_usd)
    return Run(system=system, tracker=tracker, wall=wall, canary=canary)
