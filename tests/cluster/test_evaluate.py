"""Evaluation: one member per task, in order; a failure of ours stays one."""

import asyncio

from cluster.evaluate import evaluate
from cluster.grading import Grader
from cluster.members import MemberRunner
from cluster.track.timeline import Timeline
from core.places import Places
from core.records import Failure, RolloutId, Task
from core.sections.scoring import RenderConfig
from rewards.reward import DualReward
from tests.builders import make_failure, make_task
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge
from tests.fakes.pool import FakePool


def make_members(pool: FakePool, *, max_parallel: int = 2) -> MemberRunner:
    timeline = Timeline(lambda span: None)
    grader = Grader(
        reward=DualReward(judge=FakeJudge(), text_weight=0.5, na_rule="renormalise"),
        image_model=FakeImageModel(MemoryImageStore()),
        render=RenderConfig(),
        masked_reasons=(),
        timeline=timeline,
    )
    return MemberRunner(
        pool=pool,
        grader=grader,
        timeline=timeline,
        on_attempt=lambda member, mode, version: None,
        policy_version=lambda: 0,
        max_reissues=1,
        places=Places(max_parallel),
    )


async def test_every_task_is_played_once_with_bounded_parallelism() -> None:
    running = peak = 0

    async def play(task: Task, rollout_id: RolloutId) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.001)
        running -= 1

    tasks = [make_task(ordinal) for ordinal in range(7)]
    result = await evaluate(tasks, members=make_members(FakePool(play)), policy_version=3)
    played = [member.trajectory.task for member in result.members if member.trajectory]
    assert played == tasks
    assert (result.policy_version, result.num_failed, peak) == (3, 0, 2)


async def test_a_failure_of_ours_stays_a_failure() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> Failure | None:
        return make_failure() if task.ordinal == 1 else None

    tasks = [make_task(ordinal) for ordinal in range(2)]
    result = await evaluate(tasks, members=make_members(FakePool(play)), policy_version=0)
    assert result.num_failed == 1
    assert [isinstance(member.outcome, Failure) for member in result.members] == [False, True]
