"""A learner whose process is lost: another goes on from the last checkpoint, nothing is lost."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.check.audit import audit_run
from cluster.parts import LearnerLostError
from cluster.track.recorder import METRICS, read_rows
from core.records import RolloutId, Task
from tests.builders import make_task
from tests.fakes.pool import FakePool
from tests.fakes.run import FakeRun
from tests.fakes.tools import FakeToolbox


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
    run = FakeRun(tmp_path, deaths, max_staleness=max_staleness)
    assert run.train(5, checkpoint_every=2) == expected
    audit = audit_run(tmp_path)
    assert audit.is_sound
    assert (audit.steps, audit.consumed) == (5, 10)
    assert audit.starts == 2, "the run was taken up once more"
    assert run.pool.version == 5
    applied = [event[1] for event in run.pool.events if event[0] == "apply_weights"]
    assert applied[-1] == 5


def test_a_learner_that_is_lost_while_it_works_ahead_is_replaced_too(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, [("begin", 1)], max_staleness=1)
    assert run.train(3, checkpoint_every=1) == [1, 2, 3]
    assert audit_run(tmp_path).is_sound


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_loss_that_the_workers_find_out_is_mended_too(tmp_path: Path, max_staleness: int) -> None:
    """No worker is there to fill the batch, and none can be: their weights are gone."""
    calls = iter(range(1000))

    async def play(task: Task, rollout_id: RolloutId) -> None:
        if next(calls) == 9:
            raise LearnerLostError("the weights are gone")

    run = FakeRun(tmp_path, [], pool=FakePool(play), max_staleness=max_staleness)
    assert run.train(5, checkpoint_every=2)[-1] == 5
    assert [event for event in run.learner.events if event[0] == "restart"] == [("restart",)]
    assert audit_run(tmp_path).is_sound


def test_images_that_are_pinned_again_are_not_released_by_who_is_late(tmp_path: Path) -> None:
    """Tasks that the checkpoint still waits for had ended, and the search actor was away."""

    class SlowToolbox(FakeToolbox):
        async def release(self, ordinals: Sequence[int]) -> None:
            await asyncio.sleep(0.2)
            await super().release(ordinals)

    toolbox = SlowToolbox()
    with FakeRun(tmp_path, [("step", 4)], toolbox=toolbox, max_staleness=2) as run:
        assert run.advance(5, checkpoint_every=2) == [1, 2, 3, 3, 4, 5]
        run.controller.run(asyncio.sleep(0.5))
    of_task_4 = [name for name, of in toolbox.events if of in (4, (4, 5))]
    assert of_task_4 == ["release", "pin", "release"], "both times it was consumed"


def test_an_evaluation_that_loses_the_learner_is_played_again(tmp_path: Path) -> None:
    calls = iter(range(1000))

    async def play(task: Task, rollout_id: RolloutId) -> None:
        if next(calls) == 1:
            raise LearnerLostError("the weights are gone")

    with FakeRun(tmp_path, [], pool=FakePool(play)) as run:
        result = run.system.evaluate([make_task(0), make_task(1)])
    assert (len(result.members), result.num_failed) == (2, 0)
    assert ("restart",) in run.learner.events


def test_the_versions_after_a_loss_follow_the_checkpoint(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, [("step", 4)])
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
    run = FakeRun(tmp_path, [("step", 4), ("load", 1)])
    run.train(5, checkpoint_every=2)
    rows = [(row["step"], row["failures/learner"]) for row in read_rows(tmp_path / METRICS)]
    assert rows == [(1, 0), (2, 0), (3, 0), (3, 2), (4, 0), (5, 0)]


def test_learners_that_are_lost_without_any_progress_stop_the_run(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, [("step", number) for number in range(4, 12)], max_learner_restarts=2)
    with pytest.raises(LearnerLostError, match="the learner is lost"):
        run.train(9, checkpoint_every=2)
    assert [event for event in run.learner.events if event[0] == "restart"] == [("restart",)] * 2


def test_losses_with_progress_in_between_are_counted_afresh(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, [("step", number) for number in (2, 5, 8)], max_learner_restarts=1)
    run.train(6, checkpoint_every=1)
    assert audit_run(tmp_path).is_sound
