"""A whole run on a simulated clock: the real controller, and around it parts that only take time.

    run = ScheduledRun(folder, odds=Odds(seed=7, lost_learner=0.1), max_staleness=2)
    run.train(until_step=5)          # drives the controller's loop on this thread
    run.kill_at(seconds=40.0)        # or lets it be killed in the middle

Every duration is log-normal and every fault a coin, all from one seed. Nothing sleeps.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.stats import EngineCounts, EngineStats, Gauges
from cluster.checkpoints import Checkpoints, read_frontier
from cluster.controller import Controller
from cluster.evaluate import EvalResult
from cluster.grading import Grader
from cluster.parts import LearnerLostError, Mode
from cluster.track.recorder import JsonlRecorder
from cluster.track.timeline import Timeline
from core.config import Config, build_config
from core.errors import JudgeError, RenderError
from core.places import Places, Urgency
from core.protocols import ImageVerdict, TextVerdict
from core.records import (
    Answer,
    Failure,
    Group,
    ImageRef,
    LearnerReport,
    RenderedImage,
    RenderRequest,
    RolloutId,
    Task,
    Trajectory,
    WeightUpdate,
)
from rewards.reward import DualReward
from tests.builders import make_failure, make_image_ref, make_task, make_trajectory
from tests.builders_cluster import save_whole
from tests.fakes.judge import image_verdict, text_verdict
from tests.fakes.learner import FakeLearner
from tests.fakes.tasks import ManyTasks
from tests.fakes.tools import FakeToolbox
from tests.simulated_clock import SimulatedLoop

HELD_OUT = [make_task(ordinal) for ordinal in range(5)]
"""Held-out tasks share their ordinals with training tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """How likely each fault is, per piece of work; how long the tail of an episode is."""

    seed: int = 0
    failed_episode: float = 0.0
    hopeless_episode: float = 0.0
    lost_worker: float = 0.0
    """Per episode; every episode of that worker is lost with it."""
    failed_render: float = 0.0
    failed_verdict: float = 0.0
    lost_learner: float = 0.0
    """Per step, and per publication; a fifth of it per group that is begun."""
    equal_scores: float = 0.0
    """Per task."""
    tail: float = 0.8
    """Sigma of an episode's log-normal seconds."""


class Chance:
    def __init__(self, odds: Odds) -> None:
        self.odds = odds
        self._random = random.Random(odds.seed)

    def happens(self, probability: float) -> bool:
        return self._random.random() < probability

    async def take(self, median_s: float, *, sigma: float = 0.3) -> None:
        await asyncio.sleep(median_s * self._random.lognormvariate(0.0, sigma))

    def pick(self, number: int) -> int:
        return self._random.randrange(number)


class ScheduledPool:
    """Implements cluster.parts.RolloutPool: workers that die take all their episodes with them."""

    NUM_WORKERS = 3

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._version = 0
        self._deaths = [asyncio.Event() for _ in range(self.NUM_WORKERS)]
        self.running = self.most_running = self.evaluating = 0
        self.events: list[tuple[str, int]] = []

    async def run(self, task: Task, *, rollout_id: RolloutId, mode: Mode) -> Trajectory | Failure:
        odds, version = self._chance.odds, self._version
        number = self._chance.pick(self.NUM_WORKERS)
        death = self._deaths[number]
        self.running += 1
        self.evaluating += mode == "eval"
        self.most_running = max(self.most_running, self.running)
        try:
            played = asyncio.create_task(self._chance.take(seconds_of(task, odds)))
            died = asyncio.create_task(death.wait())
            try:
                await asyncio.wait({played, died}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                played.cancel()
                died.cancel()
            if self._chance.happens(odds.lost_worker) and not death.is_set():
                death.set()
                self._deaths[number] = asyncio.Event()
            if death.is_set() or self._chance.happens(odds.failed_episode):
                return make_failure()
            if self._chance.happens(odds.hopeless_episode):
                return make_failure(retryable=False)
        finally:
            self.running -= 1
            self.evaluating -= mode == "eval"
        return make_trajectory(task=task, rollout_id=rollout_id, version=version)

    async def apply_weights(self, update: WeightUpdate, payload: Any) -> None:
        assert not self.evaluating, "new weights came into an evaluation"
        await self._chance.take(0.5)
        self._version = update.version
        self.events.append(("apply_weights", update.version))


def seconds_of(task: Task, odds: Odds) -> float:
    """The length of a task's episodes is the task's own: the same after a kill."""
    return 10.0 * random.Random(task.ordinal).lognormvariate(0.0, odds.tail)


class ScheduledImageModel:
    """Implements core.protocols.ImageModel."""

    name = "scheduled"
    max_references = 3

    def __init__(self, chance: Chance, *, replicas: int) -> None:
        self._chance = chance
        self._places = Places(replicas)

    async def render(self, request: RenderRequest, *, urgency: Urgency = ()) -> RenderedImage:
        async with self._places.place(urgency):
            await self._chance.take(20.0)
        if self._chance.happens(self._chance.odds.failed_render):
            raise RenderError("no picture")
        return RenderedImage(
            image=make_image_ref(request.key), request=request, seconds=0.0, cached=False
        )


class ScheduledJudge:
    """Implements core.protocols.Judge: the members of a task score 0, 1, 0, .. or all the same."""

    name = "scheduled"
    prompt_sha = ""

    def __init__(self, chance: Chance, *, lanes: int) -> None:
        self._chance = chance
        self._lanes = asyncio.Semaphore(lanes)
        self._asked: dict[int, int] = {}

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        await self._work()
        return image_verdict(0.5)

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        await self._work()
        number = self._asked.setdefault(task.ordinal, 0)
        self._asked[task.ordinal] = number + 1
        equal = random.Random(task.ordinal + 0.5).random() < self._chance.odds.equal_scores
        return text_verdict(0.5 if equal else number % 2)

    async def _work(self) -> None:
        async with self._lanes:
            await self._chance.take(3.0)
        if self._chance.happens(self._chance.odds.failed_verdict):
            raise JudgeError("no verdict")


class ScheduledLearner:
    """Implements cluster.parts.RemoteLearner around a FakeLearner that can be lost.

    `stalest`: the largest difference of versions between a consumed token and the learner.
    """

    def __init__(self, chance: Chance, events: list[tuple[str, int]]) -> None:
        self._chance = chance
        self._events = events
        self._learner: FakeLearner | None = FakeLearner()
        self.batch_sizes: set[int] = set()
        self.stalest = 0

    async def begin(self, groups: Sequence[Group]) -> None:
        await self._chance.take(5.0)
        self._die_perhaps(0.2)
        self._alive.begin(groups)

    async def step(self, groups: Sequence[Group]) -> LearnerReport:
        self._events.append(("step", self._alive.version + 1))
        self.batch_sizes.add(len(groups))
        for member in (member for group in groups for member in group.scored):
            assert member.trajectory is not None
            for turn in member.trajectory.turns:
                for version, _, _ in turn.completion.policy_versions:
                    self.stalest = max(self.stalest, self._alive.version - version)
        await self._chance.take(30.0)
        self._die_perhaps()
        return self._alive.update(groups)

    async def publish(self) -> tuple[WeightUpdate, Any]:
        await self._chance.take(1.0)
        self._die_perhaps()
        return self._alive.publish()

    async def save(self, folder: str) -> int:
        return self._alive.save(folder)

    async def saved(self) -> None:
        """At once: `save` has written it."""

    async def load(self, folder: str) -> None:
        self._alive.load(folder)

    async def restart(self) -> None:
        await self._chance.take(60.0)
        self._learner = FakeLearner()
        self._events.append(("restart", 0))

    def _die_perhaps(self, share: float = 1.0) -> None:
        if self._chance.happens(share * self._chance.odds.lost_learner):
            self._learner = None

    @property
    def _alive(self) -> FakeLearner:
        if self._learner is None:
            raise LearnerLostError("the learner is lost")
        return self._learner


class MortalRecorder:
    """A JsonlRecorder of a process: what happens after its death is not written."""

    def __init__(self, folder: Path) -> None:
        self._alive: JsonlRecorder | None = JsonlRecorder(folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._alive, name) if self._alive else lambda *args, **kwargs: None

    def die(self) -> None:
        if self._alive:
            self._alive.close()
        self._alive = None


class ScheduledRun:
    """One process of a run in `folder`, which goes on from the newest checkpoint there."""

    def __init__(
        self,
        folder: Path,
        *,
        odds: Odds,
        config: Config | None = None,
        replicas: int = 8,
        lanes: int = 8,
        is_balanced: bool = True,
    ) -> None:
        """`replicas`: renders at once; `lanes`: verdicts at once."""
        self.config = config or scheduled_config()
        chance = Chance(odds)
        self._loop = SimulatedLoop()
        self.recorder = MortalRecorder(folder)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=2)
        self.pool = ScheduledPool(chance)
        self.learner = ScheduledLearner(chance, self.pool.events)
        self.evaluations: list[EvalResult] = []
        self.judge = ScheduledJudge(chance, lanes=lanes)
        timeline = Timeline(
            lambda span: self.recorder.span(span),
            places={"render": replicas, "judge": lanes},
            clock=self._loop.time,
        )
        self.controller = Controller(
            config=self.config,
            tasks=ManyTasks(),
            pool=self.pool,
            toolbox=FakeToolbox(),
            grader=Grader(
                reward=DualReward(judge=self.judge, text_weight=0.5, na_rule="renormalise"),
                image_model=ScheduledImageModel(chance, replicas=replicas),
                render=self.config.render,
                masked_reasons=(),
                timeline=timeline,
            ),
            learner=self.learner,
            recorder=self.recorder,  # type: ignore[arg-type]
            timeline=timeline,
            last_checkpoint=self.checkpoints.latest,
            read_engines=_calm_engines if is_balanced else None,
            loop=self._loop,
        )

    @property
    def step(self) -> int:
        """That of the newest checkpoint."""
        newest = self.checkpoints.latest()
        return read_frontier(newest).step if newest else 0

    def train(self, *, until_step: int, kill_at_s: float | None = None) -> bool:
        """Train, with a checkpoint after every other step. False: killed before the end."""
        if kill_at_s is not None:
            self._loop.call_at(kill_at_s, self._loop.stop)
        try:
            self._loop.run_until_complete(self._train(until_step))
        except RuntimeError as error:
            if "stopped before" not in str(error):
                raise
            return False
        finally:
            self.recorder.die()
            self._loop.run_until_complete(_end_tasks())
            self._loop.close()
        return True

    async def _train(self, until_step: int) -> None:
        """With `eval.every`, held-out tasks beside it, as cluster/run.py has them."""
        controller, every = self.controller, self.config.eval.every
        newest = self.checkpoints.latest()
        if newest is not None:
            await controller._guarded(controller._restore(newest))
        self.recorder.started(controller.frontier_state)
        while controller.frontier_state.step < until_step:
            await controller._guarded(controller._train(1))
            if every and controller.frontier_state.step % every == 0:
                await self._finish_evaluation()
                await controller.evaluations.begin(HELD_OUT)
            if controller.frontier_state.step % 2 == 0:
                await self._checkpoint()
        await self._finish_evaluation()

    async def _finish_evaluation(self) -> None:
        result = await self.controller._guarded(self.controller.evaluations.finish())
        if result is not None:
            self.evaluations.append(result)

    async def _checkpoint(self) -> None:
        learner = self.learner._alive
        save_whole(
            self.checkpoints,
            state=self.controller.frontier_state,
            config=self.config,
            save_learner=learner.save,
        )


async def _calm_engines() -> Sequence[EngineStats]:
    return [EngineCounts().stats(num_running=0, gauges=Gauges(kv_usage=0.0))]


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def scheduled_config(**train: Any) -> Config:
    tree = {"groups_per_step": 2, "group_size": 3, "steps": 1000, "max_learner_restarts": 1000}
    rollout = {"max_parallel_episodes": train.pop("max_parallel_episodes", 8)}
    evaluations = {"every": train.pop("eval_every", 0), "max_parallel_episodes": 3}
    return build_config({"train": tree | train, "rollout": rollout, "eval": evaluations})
