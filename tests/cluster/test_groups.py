"""Members of a group side by side: their order, who is stopped, and what is urgent."""

import asyncio

import pytest

from cluster.groups import play_group
from cluster.members import MemberRunner
from cluster.track.timeline import Timeline
from core.places import Places, Urgency
from core.records import Failure, Member, RolloutId, Task, Trajectory
from tests.builders import make_failure, make_task
from tests.builders_cluster import make_grader
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge
from tests.fakes.pool import FakePool, Play
from tests.simulated_clock import on_a_simulated_clock


class Watching(Places):
    """Remembers how urgent each piece of work was."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.asked: list[Urgency] = []

    def place(self, urgency: Urgency = ()):  # type: ignore[no-untyped-def]
        self.asked.append(urgency)
        return super().place(urgency)


def make_runner(play: Play, attempts: list[Member], places: Places | None = None) -> MemberRunner:
    return MemberRunner(
        pool=FakePool(play),
        grader=make_grader(FakeJudge(), FakeImageModel(MemoryImageStore())),
        timeline=Timeline(lambda span: None),
        on_attempt=lambda member, mode, version: attempts.append(member),
        policy_version=lambda: 0,
        max_reissues=1,
        places=places or Places(99),
    )


async def slow_first(task: Task, rollout_id: RolloutId) -> Trajectory | Failure | None:
    await asyncio.sleep(0.03 * (4 - rollout_id.index))
    return None


@on_a_simulated_clock
async def test_all_members_are_played_and_stand_in_the_order_of_their_index() -> None:
    attempts: list[Member] = []
    runner = make_runner(slow_first, attempts)
    members = await play_group(runner, make_task(), size=4, extra=0, groups_per_step=2)
    assert [member.rollout_id.index for member in members] == [0, 1, 2, 3]


@on_a_simulated_clock
async def test_the_slowest_of_more_are_stopped_and_leave_no_trace() -> None:
    attempts: list[Member] = []
    runner = make_runner(slow_first, attempts)
    members = await play_group(runner, make_task(), size=2, extra=2, groups_per_step=2)
    assert [member.rollout_id.index for member in members] == [2, 3]
    await asyncio.sleep(0.2)
    assert sorted(member.rollout_id.index for member in attempts) == [2, 3]


@on_a_simulated_clock
async def test_a_member_without_a_score_does_not_count_towards_the_size() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> Failure | None:
        if rollout_id.index == 3:
            return make_failure(retryable=False)
        await asyncio.sleep(0.03)
        return None

    runner = make_runner(play, [])
    members = await play_group(runner, make_task(), size=2, extra=2, groups_per_step=2)
    assert sum(member.outcome == make_failure(retryable=False) for member in members) == 1
    assert len(members) == 3


async def test_a_bug_in_one_member_stops_the_others() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> None:
        if rollout_id.index == 1:
            raise ZeroDivisionError("a bug")
        await asyncio.sleep(600)

    with pytest.raises(ZeroDivisionError):
        await play_group(make_runner(play, []), make_task(), size=3, extra=0, groups_per_step=2)


@on_a_simulated_clock
async def test_the_work_of_a_group_that_can_have_no_spread_any_more_comes_last() -> None:
    async def play(task: Task, rollout_id: RolloutId) -> Failure | None:
        await asyncio.sleep(0.02 if rollout_id.index == 2 else 0)
        return make_failure(retryable=rollout_id.index == 2)

    places, task = Watching(3), make_task(5)
    await play_group(make_runner(play, [], places), task, size=3, extra=0, groups_per_step=2)
    in_time, lost = (False, 2, -task.meta.hops, 5), (True, 2, -task.meta.hops, 5)
    assert places.asked == [in_time, in_time, in_time, lost]
    assert in_time < lost
