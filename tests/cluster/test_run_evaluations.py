"""`eval.every` as cluster/run.py has it: results by step, and the checkpoint of the best one."""

import io
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from cluster.checkpoints import BEST
from cluster.report.run_summary import WallClock
from cluster.report.summary import load_heldouts
from cluster.run import Run
from cluster.track.screen import Screen
from cluster.track.tracking import Tracker
from core.protocols import TextVerdict
from core.records import Answer, RolloutId, Task, Trajectory
from tests.builders import make_answer, make_trajectory
from tests.fakes.judge import FakeJudge, text_verdict
from tests.fakes.pool import FakePool
from tests.fakes.run import FakeRun


def fake_run(
    folder: Path,
    *,
    rewards: Sequence[float],
    deaths: Sequence[tuple[str, int]] = (),
    every: int = 1,
) -> FakeRun:
    """Two held-out tasks every `every` steps; `rewards`: of their texts, by policy version."""
    grades = iter(number % 2 for number in range(10**6))

    async def play(task: Task, rollout_id: RolloutId) -> Trajectory:
        answer = make_answer(gen_prompt=f"by version {pool.version}")
        return make_trajectory(
            task=task, rollout_id=rollout_id, version=pool.version, answer=answer
        )

    def grade(task: Task, answer: Answer) -> TextVerdict:
        version = int(answer.gen_prompt.split()[-1])
        held_out = task.task_id.startswith("nano-heldout")
        return text_verdict(rewards[version] if held_out else next(grades))

    pool = FakePool(play)
    return FakeRun(
        folder,
        deaths,
        pool=pool,
        judge=FakeJudge(grade_text=grade),
        evaluation={"every": every, "num_tasks": 2},
        steps=len(rewards) - 1,
        checkpoint_every=100,
        keep_checkpoints=1,
    )


def train(fake: FakeRun) -> WallClock:
    wall = WallClock()
    with closing(Tracker(fake.config)) as tracker:
        run = Run(system=fake.system, tracker=tracker, wall=wall, canary=None)
        console = Console(file=io.StringIO())
        run.train(Screen(console, title="test", read_status=fake.controller.status))
    return wall


def texts(folder: Path) -> dict[int, float]:
    """Held-out text reward by step."""
    return {h.step: h.estimates["text_reward"].mean for h in load_heldouts(folder)}


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step_*"))


def test_every_step_has_its_result_and_the_best_one_its_checkpoint(tmp_path: Path) -> None:
    with fake_run(tmp_path / "run", rewards=(0.0, 0.3, 0.9, 0.1, 0.2, 0.0)) as fake:
        train(fake)
    assert texts(tmp_path / "run") == {1: 0.3, 2: 0.9, 3: 0.1, 4: 0.2}
    best = json.loads((tmp_path / "run" / "checkpoints" / BEST).read_text())
    assert best["step"] == 2
    assert checkpoints(tmp_path / "run") == ["step_000002", "step_000005"]


def test_a_run_without_evaluations_tells_no_time_for_them(tmp_path: Path) -> None:
    with fake_run(tmp_path / "run", rewards=(0.0, 0.3, 0.9), every=0) as fake:
        assert list(train(fake).seconds) == ["train"]
    assert texts(tmp_path / "run") == {}


def test_an_evaluation_that_the_end_of_a_process_cut_short_is_made_up_for(tmp_path: Path) -> None:
    rewards = (0.0, 0.3, 0.9, 0.1)
    with fake_run(tmp_path / "run", rewards=rewards) as fake:
        fake.advance(2, checkpoint_every=2)
    with fake_run(tmp_path / "run", rewards=rewards) as fake:
        newest = fake.checkpoints.latest()
        assert newest is not None
        fake.controller.restore(newest)
        train(fake)
    assert texts(tmp_path / "run") == {2: 0.9}


def test_a_step_that_comes_again_is_evaluated_again(tmp_path: Path) -> None:
    with fake_run(tmp_path / "run", rewards=(0.0, 0.3, 0.9, 0.1), deaths=[("step", 3)]) as fake:
        train(fake)
    assert ("restart",) in fake.learner.events
    assert texts(tmp_path / "run") == {1: 0.3, 2: 0.9}
    assert fake.controller.frontier_state.step == 3
