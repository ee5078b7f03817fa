"""Held-out numbers: what counts as 0, what has no value, and how before and after are paired."""

from pathlib import Path
from typing import Any

import pytest

from cluster.report.summary import (
    delta_json,
    heldout_json,
    load_heldouts,
    make_heldout,
    save_heldout,
    task_result,
)
from core.records import AnswerError, Member, TaskMeta, ToolCall, ToolResult
from tests.builders import (
    make_answer,
    make_failure,
    make_found_image,
    make_member,
    make_score,
    make_score_part,
    make_task,
    make_trajectory,
    make_turn,
)

RIGHT, WRONG, OTHER = (make_found_image(name) for name in ("right", "wrong", "other"))


def _member(ordinal: int, value: float, *, picked: Any = RIGHT, hops: int = 1) -> Member:
    meta = TaskMeta(category="culture", hops=hops)
    task = make_task(ordinal, reference=RIGHT.ref, meta=meta)
    searched = make_turn(
        tool_call=ToolCall(name="image_search", arguments='{"query": "flag"}'),
        tool_result=ToolResult(text="", images=(RIGHT, WRONG, OTHER)),
    )
    shown = tuple((f"IMG_{n:03d}", image) for n, image in enumerate((RIGHT, WRONG, OTHER), 1))
    trajectory = make_trajectory(
        task=task,
        turns=(searched, make_turn()),
        shown=shown,
        answer=make_answer(chosen=(picked.ref,)),
    )
    parts = [
        make_score_part("visual_correctness", value, weight=0.5),
        make_score_part("text_accuracy", None, weight=0.0),
        make_score_part("text_reward", value, weight=0.5),
    ]
    return make_member(make_score(value, parts=parts), task=task, trajectory=trajectory)


def test_a_blind_choice_among_three_images_is_right_a_third_of_the_time() -> None:
    result = task_result(_member(0, 0.5, picked=WRONG))
    assert result is not None
    assert result.values["pick_accuracy"] == 0.0
    assert result.values["pick_chance"] == pytest.approx(1 / 3)
    assert result.values["image_search_rate"] == 1.0
    assert result.values["image_reward"] == 0.5
    assert "text_accuracy" not in result.values


def test_no_answer_counts_as_zero_in_every_score_but_a_failure_of_ours_not_at_all() -> None:
    task = make_task()
    lost = make_trajectory(task=task, answer=AnswerError(reason="no answer in the last turn"))
    member = make_member(make_score(0.0, parts=[]), task=task, trajectory=lost, rendered=None)
    result = task_result(member)
    assert result is not None
    assert result.values["reward"] == result.values["text_accuracy"] == 0.0
    assert result.values["valid_rate"] == 0.0
    heldout = make_heldout(
        [member, make_member(make_failure())], when="before", step=0, num_showcase=2
    )
    assert (heldout.n, heldout.failed, heldout.flagged) == (1, 1, 0)


def test_a_score_from_an_episode_with_a_broken_tool_is_flagged() -> None:
    task = make_task()
    broken = make_turn(
        tool_call=ToolCall(name="search", arguments="{}"),
        tool_result=ToolResult(text="search unavailable", error="HTTP 503"),
    )
    member = make_member(0.2, task=task, trajectory=make_trajectory(task=task, turns=(broken,)))
    heldout = make_heldout([member], when="after", step=1, num_showcase=0)
    assert (heldout.n, heldout.failed, heldout.flagged) == (1, 0, 1)
    assert heldout_json(heldout)["flagged"] == 1


def test_before_and_after_are_paired_by_task_and_read_back_from_disk(tmp_path: Path) -> None:
    before = make_heldout(
        [_member(i, i / 10, hops=1 + i % 2) for i in range(6)],
        when="before",
        step=0,
        num_showcase=4,
    )
    after_members = [_member(i, i / 10 + 0.2, hops=1 + i % 2) for i in range(5)]
    after = make_heldout(after_members, when="after", step=9, num_showcase=4)
    save_heldout(after, tmp_path)
    save_heldout(before, tmp_path)
    assert load_heldouts(tmp_path) == [before, after]

    delta = delta_json(before, after)
    assert delta["n"] == 5
    assert delta["reward"]["mean"] == pytest.approx(0.2)
    assert delta["reward"]["ci95"] == pytest.approx([0.2, 0.2])
    assert delta["aesthetics"] is None
    assert set(delta["by_hops"]) == {"1", "2"}
    assert heldout_json(before)["reward"]["mean"] == pytest.approx(0.25)
    assert {showcase.hops for showcase in before.showcases} == {1, 2}
