"""Groups of a checkpoint come back as they were, and are consumed without being played again."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cluster.frontier import FrontierState
from cluster.kept_groups import fresh_enough, images_of, read_groups, write_groups
from core.records import AnswerError, Group, StopReason
from core.sections.run import TrainConfig
from tests.builders import (
    make_answer,
    make_failure,
    make_group,
    make_member,
    make_rendered,
    make_score,
    make_seen_image,
    make_task,
    make_trajectory,
)


def whole_group() -> Group:
    shown = [make_seen_image("a"), make_seen_image("b")]
    answered = make_trajectory(images=shown, answer=make_answer(), version=3)
    gave_up = make_trajectory(
        answer=AnswerError(reason="no JSON"), stop_reason=StopReason.BAD_ANSWER
    )
    return Group(
        task=make_task(7),
        members=(
            make_member(
                make_score(0.1 + 0.2), index=0, trajectory=answered, rendered=make_rendered()
            ),
            make_member(0.0, index=1, trajectory=gave_up, masked=True),
            make_member(make_failure(), index=2, trajectory=None),
        ),
    )


def test_a_group_comes_back_equal_in_every_field(tmp_path: Path) -> None:
    groups = (whole_group(), make_group(task=make_task(9), scores=[0.0, 1.0]))
    write_groups(tmp_path / "groups.jsonl", groups)
    assert read_groups(tmp_path / "groups.jsonl") == groups


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_scores_come_back_to_the_last_bit(value: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "groups.jsonl"
        write_groups(path, [Group(task=make_task(), members=(make_member(value),))])
        (group,) = read_groups(path)
    outcome = group.members[0].outcome
    assert outcome == make_member(value).outcome


def test_the_images_of_a_group_are_those_that_its_scored_members_saw() -> None:
    names = [make_seen_image("a").ref, make_seen_image("b").ref]
    assert images_of(whole_group()) == tuple(names)


def test_under_a_smaller_bound_older_groups_are_played_again() -> None:
    """Checkpoint of step 5, two groups per step: ranks 0 and 1 are consumed at version 5."""

    def group(ordinal: int, *, version: int) -> Group:
        task = make_task(ordinal)
        trajectory = make_trajectory(task=task, version=version)
        return Group(task=task, members=(make_member(1.0, trajectory=trajectory),))

    finished = (group(10, version=4), group(11, version=5), group(13, version=5))
    state = FrontierState(step=5, next_ordinal=14, pending=(10, 11, 12, 13), finished=finished)

    def kept(max_staleness: int) -> list[int]:
        config = TrainConfig(groups_per_step=2, max_staleness=max_staleness)
        return [group.task.ordinal for group in fresh_enough(state, config=config)]

    assert kept(1) == [10, 11, 13]
    assert kept(0) == [11]
