"""A learner whose process is lost: another goes on from the last checkpoint, nothing is lost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.check.audit import audit_run
from cluster.checkpoints import Checkpoints
from cluster.controller import Controller
from cluster.grading import Grader
from cluster.launch import System
from cluster.parts import LearnerLostError
from cluster.track.recorder import METRICS, JsonlRecorder, read_rows
from cluster.track.spending import Spending
from cluster.track.timeline import Timeline
from core.config import build_config
from core.records import Group, LearnerReport, RolloutId, Task, WeightUpdate
from rewards.reward import DualReward
from tests.builders import make_task
from tests.builders_cluster import save_whole
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge, text_verdict
from tests.fakes.learner import FakeLearner
from tests.fakes.pool import FakePool
from tests.fakes.tasks import ManyTasks
from tests.fakes.tools import FakeToolbox


class MortalLearner:
    """Implements cluster.parts.RemoteLearner. `deaths` are method calls ("step", "publish", ...)
    by their number, counted over all learners; a dead one answers nothing until it is replaced."""

    def __init__(self, deaths: Sequence[tuple[str, int]]) -> None:
        self._deaths = set(deaths)
        self._calls: dict[str, int] = {}
        self._learner = FakeLearner()
        self._dead = False
        self.events = self._learner.events

    def _call(self, name: str) -> FakeLearner:
        self._calls[name] = self._calls.get(name, 0) + 1
        if (name, self._calls[name]) in self._deaths:
            self._dead = True
        if self._dead:
            raise LearnerLostError("the learner is lost")
        return self._learner

    async def begin(self, groups: Sequence[Group]) -> None:
        self._call("begin").begin(groups)

    async def step(self, groups: Sequence[Group]) -> LearnerReport:
        return self._call("step").update(groups)

    async def publish(self) -> tuple[WeightUpdate, Any]:
        return self._call("publish").publish()

    async def save(self, folder: str) -> int:
        return self._call("save").save(folder)

    async def saved(self) -> None:
        """At once: `save` has written it."""

    async def load(self, folder: str) -> None:
        self._call("load").load(folder)

    async def restart(self) -> None:
        self._dead = False
        self._call("restart")
        self._learner = FakeLearner()
        self._learner.events = self.events
        self.events.append(("restart",))


class Run:
    """A controller over fakes that keeps checkpoints and records as a real run does."""

    def __init__(
        self,
        folder: Path,
        deaths: Sequence[tuple[str, int]],
        *,
        pool: FakePool | None = None,
        **train: Any,
    ) -> None:
        tree = {"groups_per_step": 2, "group_size": 2, "steps": 20, "stall_timeout_s": 20.0}
        self.config = build_config({"train": tree | train})
        self.folder = folder
        self.learner = MortalLearner(deaths)
        self.pool = pool or FakePool()
        self.recorder = JsonlRecorder(folder)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=2)
        timeline = Timeline(self.recorder.span)
        grades = iter(i % 2 for i in range(10**6))
        self.controller = Controller(
            config=self.config,
            tasks=ManyTasks(),
            pool=self.pool,
            toolbox=FakeToolbox(),
            grader=Grader(
                reward=DualReward(
                    judge=FakeJudge(grade_text=lambda task, answer: text_verdict(next(grades))),
                    text_weight=0.5,
                    na_rule="renormalise",
                ),
                image_model=FakeImageModel(MemoryImageStore()),
                render=self.config.render,
                masked_reasons=(),
                timeline=timeline,
            ),
            learner=self.learner,
            recorder=self.recorder,
            timeline=timeline,
            last_checkpoint=self.checkpoints.latest,
        )

    def train(self, steps: int, *, checkpoint_every: int) -> list[int]:
        """The steps that were done, in order; ends as cluster/launch.py's does."""
        done: list[int] = []
        self.controller.start()
        self.recorder.started(self.controller.frontier_state)
        try:
            while self.controller.frontier_state.step < steps:
                (report,) = self.controller.advance()
                done.append(report.step)
                if report.step % checkpoint_every == 0 or report.step == steps:
                    try:
                        save_whole(
                            self.checkpoints,
                            state=self.controller.frontier_state,
                            config=self.config,
                            save_learner=self.controller.save_learner,
                        )
                    except LearnerLostError as lost:
                        self.controller.recover(lost)
        finally:
            self.controller.close()
            self.recorder.close()
        return done


@pytest.mark.parametrize("max_staleness", [0, 2])
@pytest.mark.parametrize(
    ("deaths", "expected"),
    [
        ([("step", 1)], [1, 2, 3, 4, 5]),
        ([("step", 4)], [1, 2, 3, 3, 4, 5]),
        ([("publish", 4)], [1, 2, 3, 3, 4, 5]),
        ([("step", 4), ("load", 1)], [1, 2, 3, 3, 4, 5]),
        ([("step", 4), ("restart", 1), ("publish", 4)], [1, 2, 3, 3, 4, 5]),
        ([("save", 3)], [1, 2, 3, 4, 5, 5]),
    ],
)
def test_a_run_reaches_its_last_step_and_no_task_ends_twice(
    tmp_path: Path, deaths: list[tuple[str, int]], expected: list[int], max_staleness: int
) -> None:
    run = Run(tmp_path, deaths, max_staleness=max_staleness)
    assert run.train(5, checkpoint_every=2) == expected
    audit = audit_run(tmp_path)
    assert audit.is_sound
    assert (audit.steps, audit.consumed) == (5, 10)
    assert audit.starts == 2, "the run was taken up once more"
    assert run.pool.version == 5
    applied = [event[1] for event in run.pool.events if event[0] == "apply_weights"]
    assert applied[-1] == 5


def test_a_learner_that_is_lost_while_it_works_ahead_is_replaced_too(tmp_path: Path) -> None:
    run = Run(tmp_path, [("begin", 1)], max_staleness=1)
    assert run.train(3, checkpoint_every=1) == [1, 2, 3]
    assert audit_run(tmp_path).is_sound


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_loss_that_the_workers_find_out_is_mended_too(tmp_path: Path, max_staleness: int) -> None:
    """No worker is there to fill the batch, and none can be: their weights are gone."""
    calls = iter(range(1000))

    async def play(task: Task, rollout_id: RolloutId) -> None:
        if next(calls) == 9:
            raise LearnerLostError("the weights are gone")

    run = Run(tmp_path, [], pool=FakePool(play), max_staleness=max_staleness)
    assert run.train(5, checkpoint_every=2)[-1] == 5
    assert [event for event in run.learner.events if event[0] == "restart"] == [("restart",)]
    assert audit_run(tmp_path).is_sound


def test_an_evaluation_that_loses_the_learner_is_played_again(tmp_path: Path) -> None:
    calls = iter(range(1000))

    async def play(task: Task, rollout_id: RolloutId) -> None:
        if next(calls) == 1:
            raise LearnerLostError("the weights are gone")

    run = Run(tmp_path, [], pool=FakePool(play))
    beside: Any = None
    system = System(
        config=run.config,
        algorithm=beside,
        controller=run.controller,
        checkpoints=run.checkpoints,
        recorder=run.recorder,
        services=beside,
        spending=Spending(tmp_path, {}),
        hub=None,
    )
    run.controller.start()
    try:
        result = system.evaluate([make_task(0), make_task(1)])
    finally:
        run.controller.close()
    assert (len(result.members), result.num_failed) == (2, 0)
    assert ("restart",) in run.learner.events


def test_the_versions_after_a_loss_follow_the_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, [("step", 4)])
    run.train(4, checkpoint_every=2)
    kept = [event[:2] for event in run.learner.events if event[0] in ("update", "load", "restart")]
    assert kept == [
        ("update", 1),
        ("update", 2),
        ("update", 3),
        ("restart",),
        ("load", 2),
        ("update", 3),
        ("update", 4),
    ]
    applied = [event[1] for event in run.pool.events if event[0] == "apply_weights"]
    assert applied == [1, 2, 3, 2, 3, 4]


def test_a_lost_learner_is_counted_in_the_row_after_it_and_only_there(tmp_path: Path) -> None:
    run = Run(tmp_path, [("step", 4), ("load", 1)])
    run.train(5, checkpoint_every=2)
    rows = [(row["step"], row["failures/learner"]) for row in read_rows(tmp_path / METRICS)]
    assert rows == [(1, 0), (2, 0), (3, 0), (3, 2), (4, 0), (5, 0)]


def test_learners_that_are_lost_without_any_progress_stop_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, [("step", number) for number in range(4, 12)], max_learner_restarts=2)
    with pytest.raises(LearnerLostError, match="the learner is lost"):
        run.train(9, checkpoint_every=2)
    assert [event for event in run.learner.events if event[0] == "restart"] == [("restart",)] * 2


def test_losses_with_progress_in_between_are_counted_afresh(tmp_path: Path) -> None:
    run = Run(tmp_path, [("step", number) for number in (2, 5, 8)], max_learner_restarts=1)
    run.train(6, checkpoint_every=1)
    assert audit_run(tmp_path).is_sound
