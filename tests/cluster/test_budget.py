"""`train.budget_usd`: the real controller over fakes, a judge that costs a dollar a question."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.check.audit import audit_run
from cluster.checkpoints import Checkpoints
from cluster.controller import Controller
from cluster.grading import Grader
from cluster.launch import System, launch
from cluster.local import LocalLearner
from cluster.report.run_summary import WallClock, summary_json
from cluster.run import Run
from cluster.run_folder import SUMMARY, steps_done
from cluster.track.meters import RunMeters
from cluster.track.recorder import JsonlRecorder
from cluster.track.spending import Spending
from cluster.track.status import StepReport
from cluster.track.timeline import Timeline
from core.config import build_config
from core.errors import ConfigError
from core.files import write_json_atomic
from rewards.reward import DualReward
from tests.builders import make_task
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge, text_verdict
from tests.fakes.learner import FakeLearner
from tests.fakes.meters import MemoryExporter
from tests.fakes.pool import FakePool
from tests.fakes.tasks import ManyTasks
from tests.fakes.tools import FakeToolbox

USD_PER_STEP = 8.0
"""Two groups of two members, each asked about its text and its image."""


class Stepper:
    """What System needs of the Algorithm."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def train(self) -> None:
        self._controller.advance()


@contextmanager
def running(
    folder: Path, *, budget_usd: float | None, resume: bool = False, steps: int = 4
) -> Iterator[System]:
    config = build_config(
        {
            "run": {"root": str(folder), "name": "bought"},
            "train": {
                "groups_per_step": 2,
                "group_size": 2,
                "steps": steps,
                "checkpoint_every": 100,
                "budget_usd": budget_usd,
            },
        }
    )
    grades = iter(number % 2 for number in range(10**6))
    judge = FakeJudge(grade_text=lambda task, answer: text_verdict(next(grades)), cost_usd=1.0)
    recorder = JsonlRecorder(config.run_dir)
    timeline = Timeline(recorder.span)
    spending = Spending(config.run_dir, {"judge": judge.spent_usd})
    controller = Controller(
        config=config,
        tasks=ManyTasks(),
        pool=FakePool(),
        toolbox=FakeToolbox(),
        grader=Grader(
            reward=DualReward(judge=judge, text_weight=0.5, na_rule="renormalise"),
            image_model=FakeImageModel(MemoryImageStore()),
            render=config.render,
            masked_reasons=(),
            timeline=timeline,
        ),
        learner=LocalLearner(FakeLearner()),
        recorder=recorder,
        timeline=timeline,
        meters=RunMeters(engine_stats=_no_engines, spending=spending, exporter=MemoryExporter()),
    )
    checkpoints = Checkpoints(config.run_dir / "checkpoints", keep=2)
    system: Any = System  # the services of these parts are the fakes behind the controller
    controller.start()
    try:
        if resume and (newest := checkpoints.latest()):
            controller.restore(newest)
        recorder.started(controller.frontier_state)
        yield system(
            config=config,
            algorithm=Stepper(controller),
            controller=controller,
            checkpoints=checkpoints,
            recorder=recorder,
            services=None,
            spending=spending,
        )
    finally:
        controller.close()
        recorder.close()


async def _no_engines() -> dict[str, Any]:
    return {}


def why(system: System) -> str | None:
    no_tracker: Any = None
    return Run(system=system, tracker=no_tracker, wall=WallClock(), canary=None).why_it_stopped


def write_summary(system: System) -> None:
    """As the end of a run does."""
    summary = summary_json(
        system.config,
        steps=system.step,
        wall=WallClock(),
        peak_memory_gib=None,
        tools=None,
        stopped=why(system),
    )
    write_json_atomic(system.config.run_dir / SUMMARY, summary)


def test_a_run_that_its_budget_stopped_is_not_a_finished_one(tmp_path: Path) -> None:
    """The command line refuses to take a finished run up again."""
    with running(tmp_path, budget_usd=1.5 * USD_PER_STEP) as system:
        system.train()
        write_summary(system)
    assert steps_done(tmp_path / "bought") is None

    with running(tmp_path, budget_usd=None, resume=True) as system:
        system.train()
        write_summary(system)
    assert steps_done(tmp_path / "bought") == 4


def test_a_run_that_is_taken_up_for_fewer_steps_has_trained_to_the_end(tmp_path: Path) -> None:
    with running(tmp_path, budget_usd=None) as system:
        system.train()
    with running(tmp_path, budget_usd=None, resume=True, steps=3) as system:
        system.train()
        assert (system.step, why(system)) == (4, None)


def test_a_run_stops_after_the_step_that_spent_its_budget_and_goes_on_with_a_higher_one(
    tmp_path: Path,
) -> None:
    reports: list[StepReport] = []
    with running(tmp_path, budget_usd=1.5 * USD_PER_STEP) as system:
        system.train(on_step=reports.append)
        assert system.step == 2
        assert why(system) == (
            "stopped after step 2 of 4: the run has cost $16.00, and train.budget_usd is 12; "
            "raise it, and the same command goes on from the last checkpoint"
        )
    assert [report.metrics["dollars/step"] for report in reports] == [USD_PER_STEP] * 2
    assert reports[-1].metrics["dollars/run"] == 2 * USD_PER_STEP

    with running(tmp_path, budget_usd=1.5 * USD_PER_STEP, resume=True) as system:
        system.train(on_step=reports.append)
        assert (system.step, len(reports)) == (2, 2), "nothing is left to spend"

    with running(tmp_path, budget_usd=3 * USD_PER_STEP, resume=True) as system:
        system.train(on_step=reports.append)
        assert system.step == 3
    assert reports[-1].metrics["dollars/run"] == 3 * USD_PER_STEP

    with running(tmp_path, budget_usd=None, resume=True) as system:
        system.train(on_step=reports.append)
        assert why(system) is None
    assert [report.step for report in reports] == [1, 2, 3, 4]
    audit = audit_run(tmp_path / "bought")
    assert audit.is_sound
    assert audit.consumed == 8


def test_a_budget_that_the_first_evaluation_spends_names_no_checkpoint(tmp_path: Path) -> None:
    with running(tmp_path, budget_usd=1.0) as system:
        system.controller.run(system.controller.evaluations.play([make_task(0)]))
        system.controller.run(system.spending.count())
        system.train()
        assert system.step == 0
        assert str(why(system)).endswith("raise it, and the same command begins to train")


def test_a_run_does_not_start_over_beside_checkpoints_that_are_not_its_own(tmp_path: Path) -> None:
    """It would go on from them when its learner is lost."""
    with running(tmp_path, budget_usd=None, steps=1) as system:
        system.train()
    with (
        pytest.raises(ConfigError, match=r"step_000001 is a checkpoint of an earlier run"),
        launch(system.config),
    ):
        pass
