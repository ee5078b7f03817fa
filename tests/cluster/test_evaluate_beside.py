"""An evaluation beside training: one version for all its episodes, and nothing else waits."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.members import oldest_version
from cluster.parts import LearnerLostError
from cluster.track.recorder import TRAJECTORIES, read_rows
from core.protocols import TextVerdict
from core.records import Answer, RolloutId, Score, Task
from tests.builders import make_task
from tests.fakes.judge import FakeJudge, text_verdict
from tests.fakes.pool import FakePool
from tests.fakes.run import FakeRun

HELD_OUT = [make_task(ordinal) for ordinal in range(1000, 1003)]


class Gate:
    """Holds the episodes of held-out tasks until it is opened, on their loop."""

    def __init__(self, *, losses: int = 0) -> None:
        """So many of them find out that the learner is lost."""
        self._open = asyncio.Event()
        self._losses = losses
        self.num_waiting = 0

    async def play(self, task: Task, rollout_id: RolloutId) -> None:
        if task.ordinal >= 1000:
            self.num_waiting += 1
            await self._open.wait()
            self._losses -= 1
            if self._losses >= 0:
                raise LearnerLostError("the weights are gone")

    def open(self) -> None:
        self._open.set()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def has_stepped(run: FakeRun, version: int) -> bool:
    return any(event[:2] == ("update", version) for event in run.learner.events)


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_the_learner_steps_and_only_new_weights_wait_for_its_episodes(
    tmp_path: Path, max_staleness: int
) -> None:
    gate = Gate()
    with FakeRun(tmp_path, [], pool=FakePool(gate.play), max_staleness=max_staleness) as run:
        controller, evaluations = run.controller, run.controller.evaluations
        controller.advance()
        controller.run(evaluations.begin(HELD_OUT))

        async def open_when_stepped() -> None:
            await until(lambda: has_stepped(run, 2))
            await asyncio.sleep(0.02)
            assert not evaluations.is_over
            assert (run.pool.version, controller.status().step) == (1, 1)
            gate.open()

        opener = asyncio.run_coroutine_threadsafe(open_when_stepped(), controller._thread.loop)
        (report,) = controller.advance()
        opener.result()
        assert report.metrics["seconds/heldout"] >= 0.02
        result = controller.run(evaluations.finish())
        assert controller.run(evaluations.finish()) is None, "it was taken already"
        controller.advance(2)
    assert result is not None
    assert (result.policy_version, len(result.members), result.num_failed) == (1, 3, 0)
    versions = {oldest_version(m.trajectory) for m in result.members if m.trajectory}
    assert versions == {1}
    rows = [row for row in read_rows(tmp_path / TRAJECTORIES) if row["mode"] == "eval"]
    assert [row["step"] for row in rows] == [1, 1, 1]
    assert run.pool.version == 4


def test_its_verdicts_hold_nothing_up(tmp_path: Path) -> None:
    asked, verdict = 0, asyncio.Event()
    grades = iter(number % 2 for number in range(1000))

    class SlowJudge(FakeJudge):
        async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
            nonlocal asked
            if task.ordinal >= 1000:
                asked += 1
                await verdict.wait()
            return text_verdict(next(grades))

    with FakeRun(tmp_path, [], judge=SlowJudge()) as run:
        controller, evaluations = run.controller, run.controller.evaluations
        controller.advance()
        controller.run(evaluations.begin(HELD_OUT))
        controller.advance(2)
        assert (run.pool.version, asked, evaluations.is_over) == (3, 3, False)
        controller._thread.ask(verdict.set)
        result = controller.run(evaluations.finish())
    assert result is not None
    assert all(isinstance(member.outcome, Score) for member in result.members)


def test_a_run_that_is_stopped_does_not_wait_for_it(tmp_path: Path) -> None:
    with FakeRun(tmp_path, [], pool=FakePool(Gate().play)) as run:
        controller, evaluations = run.controller, run.controller.evaluations
        controller.advance()
        controller.run(evaluations.begin(HELD_OUT))
        ahead = asyncio.run_coroutine_threadsafe(controller._train(1), controller._thread.loop)
        controller.run(until(lambda: has_stepped(run, 2)))
        controller.stop()
        assert controller.frontier_state.step == 2, "the step under way was finished"
        assert evaluations.is_over
    assert ahead.done()


def test_the_policy_that_it_played_comes_back_with_another_learner(tmp_path: Path) -> None:
    """Lost in step 3, whose weights wait for the episodes of version 2, which has a checkpoint."""
    gate = Gate()
    with FakeRun(tmp_path, [("step", 3)], pool=FakePool(gate.play)) as run:
        controller, evaluations = run.controller, run.controller.evaluations
        run.advance(2, checkpoint_every=2)
        controller.run(evaluations.begin(HELD_OUT))
        controller.run(until(lambda: gate.num_waiting == 3))

        async def open_when_it_plays_again() -> None:
            await until(lambda: gate.num_waiting == 6)
            gate.open()

        asyncio.run_coroutine_threadsafe(open_when_it_plays_again(), controller._thread.loop)
        assert run.advance(3, checkpoint_every=2) == [3]
        result = controller.run(evaluations.finish())
    assert ("restart",) in run.learner.events
    assert result is not None
    assert (result.policy_version, result.num_failed) == (2, 0)


def test_it_is_forgotten_when_its_step_comes_again(tmp_path: Path) -> None:
    with FakeRun(tmp_path, [("step", 4)], pool=FakePool(Gate().play)) as run:
        evaluations = run.controller.evaluations
        run.advance(3, checkpoint_every=2, last=False)
        run.controller.run(evaluations.begin(HELD_OUT))
        assert run.advance(4, checkpoint_every=2) == [3, 4]
        assert run.controller.run(evaluations.finish()) is None


def test_one_that_finds_out_that_the_weights_are_gone_begins_again(tmp_path: Path) -> None:
    gate = Gate(losses=1)
    with FakeRun(tmp_path, [], pool=FakePool(gate.play)) as run:
        controller, evaluations = run.controller, run.controller.evaluations
        run.advance(2, checkpoint_every=2)
        controller.run(evaluations.begin(HELD_OUT))
        controller._thread.ask(gate.open)
        with pytest.raises(LearnerLostError) as lost:
            controller.run(evaluations.finish())
        controller.recover(lost.value)
        result = controller.run(evaluations.finish())
    assert result is not None
    assert (result.policy_version, result.num_failed) == (2, 0)
