"""Evaluation: one item per task in order, and the facts that are read off a trajectory."""

import asyncio

import pytest

from cluster.evaluate import eval_item, evaluate
from cluster.grading import Grader
from cluster.members import MemberRunner
from cluster.timeline import Timeline
from core.config import RenderConfig
from core.records import AnswerError, Failure, Member, RolloutId, Score, Task, ToolCall
from rewards.reward import DualReward
from tests.builders import (
    make_answer,
    make_failure,
    make_image_ref,
    make_score,
    make_seen_image,
    make_task,
    make_trajectory,
    make_turn,
)
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
        on_attempt=lambda member, mode: None,
        policy_version=lambda: 0,
        max_reissues=1,
        max_parallel=max_parallel,
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
    assert [item.task for item in result.items] == tasks
    assert all(item.score is not None for item in result.items)
    assert (result.policy_version, result.num_failed, peak) == (3, 0, 2)


async def test_a_failure_of_ours_stays_a_failure() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> Failure | None:
        return make_failure() if task.ordinal == 1 else None

    tasks = [make_task(ordinal) for ordinal in range(2)]
    result = await evaluate(tasks, members=make_members(FakePool(play)), policy_version=0)
    assert result.num_failed == 1
    assert result.items[1].score is None
    assert not result.items[1].valid


def member_of(trajectory: object) -> Member:
    return Member(
        rollout_id=RolloutId(ordinal=0, index=0),
        trajectory=trajectory,  # type: ignore[arg-type]
        rendered=None,
        outcome=make_score(),
    )


@pytest.mark.parametrize(
    ("chosen", "picked", "chance"),
    [(["b"], True, 1 / 3), (["a"], False, 1 / 3), (["a", "b"], True, 2 / 3), ([], False, 0.0)],
)
def test_picking_is_compared_with_blind_choice(
    chosen: list[str], picked: bool, chance: float
) -> None:
    task = make_task(reference=make_image_ref("b"))
    trajectory = make_trajectory(
        task=task,
        images=[make_seen_image(name) for name in "abc"],
        answer=make_answer(chosen=[make_image_ref(name) for name in chosen]),
    )
    item = eval_item(task, member_of(trajectory))
    assert item.picked is picked
    assert item.pick_chance == pytest.approx(chance)


def test_a_task_without_a_known_reference_has_nothing_to_pick() -> None:
    item = eval_item(make_task(), member_of(make_trajectory()))
    assert (item.picked, item.pick_chance) == (None, None)


def test_no_answer_is_neither_valid_nor_picked() -> None:
    task = make_task(reference=make_image_ref("b"))
    call = ToolCall(name="image_search", arguments="{}")
    trajectory = make_trajectory(
        task=task, answer=AnswerError(reason="none"), turns=(make_turn(tool_call=call),)
    )
    item = eval_item(task, member_of(trajectory))
    assert (item.valid, item.picked, item.pick_chance) == (False, False, 0.0)
    assert item.image_searched
    assert isinstance(item.score, Score)
