"""Groups of a checkpoint come back as they were, and are consumed without being played again."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cluster.kept_groups import images_of, read_groups, write_groups
from core.records import AnswerError, Group, StopReason
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
