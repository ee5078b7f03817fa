"""The controller over fakes: order of events, staleness, re-issues, endings, stalls and stops."""

import asyncio
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.checkpoints import Checkpoints
from cluster.controller import Controller
from cluster.frontier import Ending
from cluster.grading import Grader
from cluster.local import LocalLearner
from cluster.members import oldest_version
from cluster.starvation import EmptyBatchesError
from cluster.track.timeline import Timeline
from core.config import Config, build_config
from core.errors import LearnerError, StalledError
from core.records import Failure, Group, LearnerReport, RolloutId, Score, Task, Trajectory
from rewards.reward import DualReward
from tests.builders import make_failure, make_task
from tests.builders_cluster import save_whole
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge, image_verdict, text_verdict
from tests.fakes.learner import FakeLearner
from tests.fakes.pool import FakePool, MemoryRecorder
from tests.fakes.tasks import ManyTasks
from tests.fakes.tools import FakeToolbox
from tests.waiting import until


class World:
    """A controller over fakes. Members of every group score differently, unless told."""

    def __init__(
        self,
        pool: FakePool,
        *,
        spread: bool = True,
        judge: FakeJudge | None = None,
        normalise: str = "blended",
        learner: FakeLearner | None = None,
        **train: Any,
    ) -> None:
        self.config = self._config(train, normalise=normalise)
        self.pool = pool
        self.learner = learner or FakeLearner()
        self.recorder = MemoryRecorder()
        self.timeline = Timeline(self.recorder.span)
        grades = iter(i % 2 if spread else 0 for i in range(10**6))
        judge = judge or FakeJudge(grade_text=lambda task, answer: text_verdict(next(grades)))
        self.toolbox = FakeToolbox()
        self.controller = Controller(
            config=self.config,
            tasks=ManyTasks(),
            pool=pool,
            toolbox=self.toolbox,
            grader=Grader(
                reward=DualReward(judge=judge, text_weight=0.5, na_rule="renormalise"),
                image_model=FakeImageModel(MemoryImageStore()),
                render=self.config.render,
                masked_reasons=(),
                timeline=self.timeline,
            ),
            learner=LocalLearner(self.learner),
            recorder=self.recorder,
            timeline=self.timeline,
        )

    @staticmethod
    def _config(train: dict[str, Any], *, normalise: str) -> Config:
        tree = {"groups_per_step": 2, "group_size": 3, "steps": 20, "stall_timeout_s": 20.0}
        return build_config({"train": tree | train, "reward": {"normalise": normalise}})

    @contextmanager
    def running(self) -> Iterator[Controller]:
        self.controller.start()
        try:
            yield self.controller
        finally:
            self.controller.close()

    @property
    def begun(self) -> set[int]:
        """Ordinals of which an episode has begun."""
        return {event[1].ordinal for event in self.pool.events if event[0] == "begin"}

    @property
    def endings(self) -> dict[int, Ending]:
        assert len({ordinal for ordinal, _, _ in self.recorder.endings}) == len(
            self.recorder.endings
        ), "an ordinal ended twice"
        return {ordinal: ending for ordinal, ending, _ in self.recorder.endings}


def test_a_step_trains_then_publishes_then_applies_and_then_has_its_version() -> None:
    world = World(FakePool())
    events: list[Any] = []
    world.learner.events = world.pool.events = events
    with world.running() as controller:
        reports = controller.advance(steps=2)
    assert [report.step for report in reports] == [1, 2]
    kept = [event for event in events if event[0] not in ("begin", "end")]
    assert kept == [
        ("update", 1, (0, 1)),
        ("publish", 1),
        ("apply_weights", 1),
        ("update", 2, (2, 3)),
        ("publish", 2),
        ("apply_weights", 2),
    ]


def test_ended_tasks_are_released_also_where_a_held_out_one_has_their_ordinal() -> None:
    world = World(FakePool())
    with world.running() as controller:
        played = controller.run(controller.evaluations.play([make_task(1)]))
        controller.advance(steps=2)
        controller.run(until(lambda: len(world.toolbox.events) >= 2))
    assert [member.rollout_id.heldout for member in played.members] == [True]
    assert world.toolbox.events == [("release", (0, 1)), ("release", (2, 3))]


def test_sync_episodes_all_come_from_the_version_that_they_train() -> None:
    world = World(FakePool(), max_staleness=0)
    with world.running() as controller:
        reports = controller.advance(steps=3)
    begins = [event for event in world.pool.events if event[0] == "begin"]
    assert [version for _, _, version in begins] == [0] * 6 + [1] * 6 + [2] * 6
    assert all(report.metrics["staleness/max"] == 0 for report in reports)
    assert world.endings == dict.fromkeys(range(6), Ending.CONSUMED)


@pytest.mark.parametrize("normalise", ["blended", "per_part"])
def test_parts_that_cancel_out_teach_only_where_they_are_normalised_apart(normalise: str) -> None:
    text, image = itertools.cycle([0.0, 1.0]), itertools.cycle([1.0, 0.0])
    judge = FakeJudge(
        grade_text=lambda task, answer: text_verdict(next(text)),
        grade_image=lambda task, ref: image_verdict(next(image)),
    )
    world = World(FakePool(), judge=judge, normalise=normalise, max_empty_batches=1)
    with world.running() as controller:
        if normalise == "blended":
            with pytest.raises(EmptyBatchesError):
                controller.advance(steps=1)
        else:
            controller.advance(steps=1)
    expected = Ending.FILTERED if normalise == "blended" else Ending.CONSUMED
    assert set(world.endings.values()) == {expected}


def test_one_step_off_plays_ahead_and_stays_within_its_bound() -> None:
    world = World(FakePool(), max_staleness=1)
    with world.running() as controller:
        controller.advance(steps=1)
        controller.run(until(lambda: len(world.begun) >= 4))
        assert world.begun == {0, 1, 2, 3}, "the next batch is in flight between calls"
        reports = controller.advance(steps=4)
    assert {report.metrics["staleness/max"] for report in reports} == {1.0}
    assert set(world.endings.values()) == {Ending.CONSUMED}


def test_asynchronous_runs_play_further_ahead_and_stay_within_their_bound() -> None:
    world = World(FakePool(), max_staleness=3)
    with world.running() as controller:
        controller.advance(steps=1)
        controller.run(until(lambda: len(world.begun) >= 8))
        assert world.begun == set(range(8)), "three batches are in flight between calls"
        reports = controller.advance(steps=6)
    assert [report.metrics["staleness/max"] for report in reports] == [1, 2, 3, 3, 3, 3]
    assert set(world.endings.values()) == {Ending.CONSUMED}


@pytest.mark.parametrize(("gone", "played"), [(set(), {4, 5}), ({3}, {3, 4, 5})])
def test_a_resumed_run_plays_no_finished_group_again_unless_its_images_are_gone(
    tmp_path: Path, gone: set[int], played: set[int]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    first = World(FakePool(), max_staleness=1)
    with first.running() as controller:
        controller.advance(steps=1)
        controller.run(until(lambda: len(controller.frontier_state.finished) >= 2))
        state = controller.frontier_state
        path = save_whole(
            checkpoints, state=state, config=first.config, save_learner=controller.save_learner
        )
    assert [group.task.ordinal for group in state.finished] == [2, 3]

    second = World(FakePool(), max_staleness=1)
    second.toolbox.unpinnable = gone
    with second.running() as controller:
        controller.restore(path)
        controller.advance(steps=1)
        controller.run(until(lambda: len(second.begun) >= len(played)))
    assert second.begun == played
    assert second.learner.events[-2] == ("update", 2, (2, 3))


@pytest.mark.parametrize(("max_staleness", "begun"), [(0, [set()] * 2), (1, [{1}, {3}])])
def test_the_learner_begins_with_what_is_there_except_in_sync_mode(
    max_staleness: int, begun: list[set[int]]
) -> None:
    async def play(task: Task, rollout_id: RolloutId) -> None:
        """The older group ends later."""
        if task.ordinal == 0 and max_staleness:
            await until(lambda: 1 in world.learner.begun)
        elif task.ordinal % 2 == 0:
            await asyncio.sleep(0.1)

    seen: list[set[int]] = []

    stages: list[str] = []

    class Watched(FakeLearner):
        def begin(self, groups: Sequence[Group]) -> None:
            super().begin(groups)
            stages.append(world.controller.status().stage)

        def update(self, groups: Sequence[Group]) -> LearnerReport:
            seen.append(set(self.begun))
            assert world.controller.status().stage == "learn"
            return super().update(groups)

    world = World(FakePool(play), learner=Watched(), max_staleness=max_staleness)
    with world.running() as controller:
        controller.advance(steps=2)
    assert seen[0] == begun[0]
    assert seen[1] <= begun[1]
    assert stages[:1] == (["rollout"] if max_staleness else [])


def test_a_failed_member_is_issued_again_and_then_left_out() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> Failure | None:
        if task.ordinal == 0 and rollout_id.index == 0:
            return make_failure()
        if task.ordinal == 1 and rollout_id.index == 1 and rollout_id.attempt == 0:
            return make_failure()
        return None

    world = World(FakePool(play), max_reissues=2)
    with world.running() as controller:
        (report,) = controller.advance()
    attempts = [str(m.rollout_id) for _, _, m in world.recorder.members if m.trajectory is None]
    assert sorted(attempts) == ["0.0.0", "0.0.1", "0.0.2", "1.1.0"]
    assert report.metrics["failures/render"] == 1
    assert world.endings == {0: Ending.CONSUMED, 1: Ending.CONSUMED}


def test_a_failure_that_cannot_be_mended_is_not_issued_again() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> Failure | None:
        hopeless = task.ordinal == 0 and rollout_id.index == 0
        return make_failure(retryable=False) if hopeless else None

    world = World(FakePool(play))
    with world.running() as controller:
        controller.advance()
    failed = [m.rollout_id for _, _, m in world.recorder.members if m.trajectory is None]
    assert [str(rollout_id) for rollout_id in failed] == ["0.0.0"]


def test_a_group_with_fewer_than_two_scored_members_fails_and_is_replaced() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> Failure | None:
        return make_failure() if task.ordinal == 0 and rollout_id.index else None

    world = World(FakePool(play), max_reissues=0)
    with world.running() as controller:
        (report,) = controller.advance()
    assert world.endings == {0: Ending.FAILED, 1: Ending.CONSUMED, 2: Ending.CONSUMED}
    assert report.metrics["groups/failed"] == 1


def test_tokens_of_a_version_that_was_replaced_are_never_used() -> None:
    """A worker that came back with the first weights is found out, and its episode re-issued."""

    async def play(task: Task, rollout_id: RolloutId) -> Trajectory | None:
        from tests.builders import make_trajectory

        if world.pool.version == 1 and rollout_id.attempt == 0 and rollout_id.index == 0:
            return make_trajectory(task=task, rollout_id=rollout_id, version=0)
        return None

    world = World(FakePool(play), max_staleness=0)
    with world.running() as controller:
        controller.advance(steps=2)
    stale = [m for _, _, m in world.recorder.members if isinstance(m.outcome, Failure)]
    assert [str(m.rollout_id) for m in stale] == ["2.0.0", "3.0.0"]
    scored = [m for _, s, m in world.recorder.members if isinstance(m.outcome, Score) and s == 1]
    assert {oldest_version(m.trajectory) for m in scored if m.trajectory} == {1}


def test_a_run_without_any_gradient_stops_and_says_why() -> None:
    world = World(FakePool(), spread=False, max_empty_batches=3)
    with world.running() as controller, pytest.raises(EmptyBatchesError, match="6 with equal"):
        controller.advance()
    assert set(world.endings.values()) == {Ending.FILTERED}
    assert world.learner.events == []


def test_a_stall_names_the_stage_the_oldest_item_and_its_age() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> None:
        await asyncio.sleep(600 if str(rollout_id) == "1.2.0" else 0)

    dumped: list[str] = []

    def dump(text: str) -> Path:
        dumped.append(text)
        return Path("runs/x/stall.txt")

    world = World(FakePool(play), stall_timeout_s=1.0)
    world.controller._dump = dump
    with world.running() as controller:
        with pytest.raises(StalledError, match=r"1\.2\.0, \d+\.\d s old; .* runs/x/stall\.txt"):
            controller.advance()
        status = controller.status()
    assert dumped[0].splitlines()[1].endswith("s  rollout 1.2.0")
    assert (status.stage, status.oldest_item) == ("rollout", "rollout 1.2.0")
    assert status.groups_finished == 1


def test_a_checkpoint_that_is_written_for_too_long_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(learner: LocalLearner) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(LocalLearner, "saved", never)
    world = World(FakePool(), stall_timeout_s=0.1)
    with (
        world.running() as controller,
        pytest.raises(StalledError, match="is learn of checkpoint"),
    ):
        controller.finish_save()


def test_a_broken_learner_stops_the_run() -> None:
    world = World(FakePool())
    world.learner = FakeLearner(fail_times={1: 1})
    world.controller._learner = LocalLearner(world.learner)
    with world.running() as controller, pytest.raises(LearnerError, match="update 1"):
        controller.advance()


def test_a_bug_in_a_group_stops_the_run_at_once() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> None:
        raise ZeroDivisionError("a bug in the pool")

    world = World(FakePool(play))
    with world.running() as controller, pytest.raises(ZeroDivisionError):
        controller.advance()


def test_a_stop_abandons_episodes_and_keeps_them_pending() -> None:
    held = threading.Event()

    async def play(task: Task, rollout_id: RolloutId) -> None:
        if task.ordinal >= 2:
            held.set()
            await asyncio.sleep(600)

    world = World(FakePool(play))
    with world.running() as controller:
        controller.advance(steps=1)
        waiter = threading.Thread(target=lambda: _swallow(controller), daemon=True)
        waiter.start()
        assert held.wait(60)
        controller.stop()
        assert controller.frontier_state.step == 1
        assert controller.frontier_state.pending == (2, 3)
        waiter.join(60)
        assert not waiter.is_alive()


def _swallow(controller: Controller) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever a stop does to a waiter
        controller.advance(steps=1)


def test_status_and_metrics_tell_what_happened() -> None:
    world = World(FakePool())
    with world.running() as controller:
        before = controller.status()
        (report,) = controller.advance()
        after = controller.status()
    assert (before.step, before.reward, before.stage) == (0, None, "idle")
    assert (after.step, after.groups_finished, after.in_flight) == (1, 0, {})
    assert after.last_metrics == report.metrics
    assert report.metrics["reward/mean"] == pytest.approx(0.5)
    assert report.metrics["groups/consumed"] == 2
    assert report.metrics["learner/samples"] == 6
    for kind in ("rollout", "render", "judge", "learn", "broadcast", "idle", "step"):
        assert report.metrics[f"seconds/{kind}"] >= 0
    assert world.recorder.steps == [(1, report.metrics)]
