"""The frontier: every ordinal ends once, batches keep their order, staleness keeps its bound."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.frontier import Ending, Frontier, FrontierState
from core.errors import GensearcherError
from core.records import Group
from tests.builders import make_failure, make_group, make_member, make_task

GOOD, EQUAL, BROKEN = [0.0, 1.0], [0.5, 0.5], [0.5]


def group(ordinal: int, scores: list[float]) -> Group:
    return make_group(task=make_task(ordinal), scores=scores)


def admit_all(frontier: Frontier) -> list[int]:
    return list(iter(frontier.admit, None))


def make_frontier(staleness: int = 0, total: int = 10, state: FrontierState | None = None):
    return Frontier(
        groups_per_step=2,
        max_staleness=staleness,
        total_steps=total,
        state=state,
        teaches=lambda group: group.has_spread,
    )


def test_nothing_is_admitted_before_a_step_is_asked_for() -> None:
    assert make_frontier().admit() is None


def test_sync_admits_one_batch_and_one_step_off_admits_two() -> None:
    for staleness, expected in ((0, [0, 1]), (1, [0, 1, 2, 3])):
        frontier = make_frontier(staleness)
        frontier.aim(1)
        assert admit_all(frontier) == expected


def test_the_last_step_admits_nothing_for_a_step_that_will_not_come() -> None:
    frontier = make_frontier(staleness=1, total=1)
    frontier.aim(1)
    assert admit_all(frontier) == [0, 1]


def test_groups_without_gradient_are_replaced_by_the_next_ordinals() -> None:
    frontier = make_frontier()
    frontier.aim(1)
    admit_all(frontier)
    assert frontier.finish(group(0, EQUAL)) is Ending.FILTERED
    assert frontier.finish(group(1, BROKEN)) is Ending.FAILED
    assert frontier.ends_without_gradient == 2
    assert admit_all(frontier) == [2, 3]
    assert frontier.finish(group(3, GOOD)) is None
    assert frontier.ends_without_gradient == 0
    assert frontier.take_batch() is None
    assert frontier.finish(group(2, GOOD)) is None
    batch = frontier.take_batch()
    assert batch is not None
    assert [g.task.ordinal for g in batch] == [2, 3]


def test_masked_members_are_no_fault_of_ours() -> None:
    frontier = make_frontier()
    frontier.aim(1)
    admit_all(frontier)
    found = group(0, [0.0, 0.5, 1.0])
    masked = tuple(replace(member, masked=True) for member in found.members[1:])
    too_few = replace(found, members=(found.members[0], *masked))
    assert frontier.finish(too_few) is Ending.FILTERED
    lost = make_member(make_failure(), index=1)
    assert frontier.finish(replace(group(1, [0.5]), members=(found.members[0], lost))) is (
        Ending.FAILED
    )


def test_the_oldest_groups_are_consumed_first() -> None:
    frontier = make_frontier(staleness=1)
    frontier.aim(2)
    admit_all(frontier)
    for ordinal in (1, 2, 3):
        frontier.finish(group(ordinal, GOOD))
    assert frontier.take_batch() is None
    frontier.finish(group(0, GOOD))
    batch = frontier.take_batch()
    assert batch is not None
    assert [g.task.ordinal for g in batch] == [0, 1]


def test_a_group_cannot_end_twice() -> None:
    frontier = make_frontier()
    frontier.aim(1)
    admit_all(frontier)
    frontier.finish(group(0, GOOD))
    with pytest.raises(GensearcherError, match="task 0"):
        frontier.finish(group(0, GOOD))


def test_a_resumed_frontier_issues_again_what_had_not_ended() -> None:
    frontier = make_frontier(staleness=1)
    frontier.aim(1)
    admit_all(frontier)
    frontier.finish(group(0, GOOD))
    frontier.finish(group(1, GOOD))
    frontier.take_batch()
    frontier.complete_step()
    assert frontier.state == FrontierState(step=1, next_ordinal=4, pending=(2, 3))
    resumed = make_frontier(staleness=1, state=frontier.state)
    resumed.aim(2)
    assert admit_all(resumed) == [2, 3, 4, 5]


def test_a_resumed_frontier_keeps_what_was_finished() -> None:
    frontier = make_frontier(staleness=1)
    frontier.aim(1)
    admit_all(frontier)
    frontier.finish(group(1, GOOD))
    frontier.finish(group(3, GOOD))
    state = frontier.state
    assert (state.pending, [kept.task.ordinal for kept in state.finished]) == ((0, 1, 2, 3), [1, 3])
    resumed = make_frontier(staleness=1, state=state)
    resumed.aim(1)
    assert admit_all(resumed) == [0, 2]
    resumed.finish(group(0, GOOD))
    batch = resumed.take_batch()
    assert batch is not None
    assert batch[1] is state.finished[0]


@given(
    groups_per_step=st.integers(1, 4),
    staleness=st.integers(0, 4),
    choices=st.lists(st.tuples(st.integers(0, 100), st.sampled_from([GOOD, EQUAL, BROKEN]))),
)
def test_any_schedule_keeps_the_bound_and_ends_every_ordinal_once(
    groups_per_step: int, staleness: int, choices: list[tuple[int, list[float]]]
) -> None:
    frontier = Frontier(
        groups_per_step=groups_per_step,
        max_staleness=staleness,
        total_steps=99,
        teaches=lambda group: group.has_spread,
    )
    frontier.aim(50)
    admitted_at: dict[int, int] = {}
    running: list[int] = []
    ended: list[int] = []
    for pick, scores in choices:
        for ordinal in admit_all(frontier):
            assert ordinal not in admitted_at
            admitted_at[ordinal] = frontier.step
            running.append(ordinal)
        assert running, "nothing runs and nothing may start: a deadlock"
        ordinal = running.pop(pick % len(running))
        if frontier.finish(group(ordinal, scores)) is not None:
            ended.append(ordinal)
        while (batch := frontier.take_batch()) is not None:
            for consumed in batch:
                assert frontier.step - admitted_at[consumed.task.ordinal] <= staleness
                ended.append(consumed.task.ordinal)
            frontier.complete_step()
    assert len(ended) == len(set(ended))
    assert set(ended).isdisjoint(frontier.state.pending)
    assert set(ended) | set(frontier.state.pending) == set(range(frontier.state.next_ordinal))
