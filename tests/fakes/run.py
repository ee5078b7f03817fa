"""A controller over fakes, with checkpoints and records as a real run has them, whose learner dies.

with FakeRun(folder, deaths=[("step", 4)], max_staleness=2) as run:
    run.advance(5, checkpoint_every=2) == [1, 2, 3, 3, 4, 5]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.checkpoints import Checkpoints
from cluster.controller import Controller
from cluster.grading import Grader
from cluster.launch import System
from cluster.parts import LearnerLostError
from cluster.track.recorder import JsonlRecorder
from cluster.track.spending import Spending
from cluster.track.timeline import Timeline
from core.config import build_config
from core.records import Group, LearnerReport, WeightUpdate
from rewards.reward import DualReward
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


class FakeRun:
    """A controller over fakes that keeps checkpoints and records as a real run does."""

    def __init__(
        self,
        folder: Path,
        deaths: Sequence[tuple[str, int]],
        *,
        pool: FakePool | None = None,
        judge: FakeJudge | None = None,
        toolbox: FakeToolbox | None = None,
        evaluation: Mapping[str, Any] | None = None,
        **train: Any,
    ) -> None:
        tree = {"groups_per_step": 2, "group_size": 2, "steps": 20, "stall_timeout_s": 20.0}
        self.config = build_config(
            {
                "run": {"root": str(folder.parent), "name": folder.name},
                "wandb": {"mode": "disabled"},
                "train": tree | train,
                "eval": evaluation or {},
            }
        )
        self.learner = MortalLearner(deaths)
        self.pool = pool or FakePool()
        self.recorder = JsonlRecorder(folder)
        keep = self.config.train.keep_checkpoints
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=keep)
        self.images = MemoryImageStore()
        self._spending = Spending(folder, {})
        timeline = Timeline(self.recorder.span)
        grades = iter(i % 2 for i in range(10**6))
        judge = judge or FakeJudge(grade_text=lambda task, answer: text_verdict(next(grades)))
        self.controller = Controller(
            config=self.config,
            tasks=ManyTasks(),
            pool=self.pool,
            toolbox=toolbox or FakeToolbox(),
            grader=Grader(
                reward=DualReward(judge=judge, text_weight=0.5, na_rule="renormalise"),
                image_model=FakeImageModel(self.images),
                render=self.config.render,
                masked_reasons=(),
                timeline=timeline,
            ),
            learner=self.learner,
            recorder=self.recorder,
            timeline=timeline,
            last_checkpoint=self.checkpoints.last_whole,
        )

    def __enter__(self) -> "FakeRun":
        self.controller.start()
        self.recorder.started(self.controller.frontier_state)
        return self

    def __exit__(self, *error: object) -> None:
        self.controller.close()
        self.recorder.close()

    @property
    def system(self) -> System:
        """As cluster/launch.py makes it; every step of its algorithm is one of the controller."""
        algorithm: Any = SimpleNamespace(train=self.controller.advance)
        services: Any = SimpleNamespace(images=self.images)
        return System(
            config=self.config,
            algorithm=algorithm,
            controller=self.controller,
            checkpoints=self.checkpoints,
            recorder=self.recorder,
            services=services,
            spending=self._spending,
        )

    def train(self, steps: int, *, checkpoint_every: int) -> list[int]:
        """From start to end, with a checkpoint of the last step; see `advance`."""
        with self:
            return self.advance(steps, checkpoint_every=checkpoint_every)

    def advance(self, steps: int, *, checkpoint_every: int, last: bool = True) -> list[int]:
        """The steps that were done, in order; ends as cluster/launch.py's does, unless not
        `last`."""
        done: list[int] = []
        while self.controller.frontier_state.step < steps:
            (report,) = self.controller.advance()
            done.append(report.step)
            if report.step % checkpoint_every == 0 or (last and report.step == steps):
                try:
                    save_whole(
                        self.checkpoints,
                        state=self.controller.frontier_state,
                        config=self.config,
                        save_learner=self.controller.save_learner,
                    )
                except LearnerLostError as lost:
                    self.controller.recover(lost)
        return done
