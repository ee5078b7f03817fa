"""The recorder: rows read back, resumed files go on, torn rows are skipped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.frontier import Ending
from cluster.track.recorder import (
    EVENTS,
    METRICS,
    TRAJECTORIES,
    JsonlRecorder,
    read_rows,
    read_steps,
    trajectory_digest,
)
from cluster.track.timeline import Span
from core.records import Member, ToolCall, ToolResult, Trajectory
from tests.builders import (
    make_answer,
    make_completion,
    make_failure,
    make_found_image,
    make_group,
    make_rollout_id,
    make_score,
    make_seen_image,
    make_task,
    make_trajectory,
    make_turn,
)


def scored_member() -> Member:
    turn = make_turn(
        tool_call=ToolCall(name="image_search", arguments='{"query": "flag"}'),
        tool_result=ToolResult(text="found", images=(make_found_image("a"),), cached=True),
        text="<think>\ud800</think>",
    )
    trajectory = make_trajectory(turns=(turn, make_turn()), answer=make_answer())
    return Member(
        rollout_id=make_rollout_id(7, 1, 2),
        trajectory=trajectory,
        rendered=None,
        outcome=make_score(0.5),
    )


def test_members_are_read_back_with_turns_images_and_scores(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    recorder.member(scored_member(), mode="train", step=3)
    failed = Member(
        rollout_id=make_rollout_id(), trajectory=None, rendered=None, outcome=make_failure()
    )
    recorder.member(failed, mode="eval", step=3)
    recorder.close()
    first, second = read_rows(tmp_path / TRAJECTORIES)
    assert (first["mode"], first["step"], first["rollout"]) == ("train", 3, "7.1.2")
    assert first["score"]["value"] == 0.5
    assert first["score"]["parts"][0]["name"] == "faithfulness"
    assert first["turns"][0]["tool_call"]["name"] == "image_search"
    digest = make_found_image("a").ref.sha256
    assert first["turns"][0]["tool_result"]["images"][0]["ref"]["sha256"] == digest
    assert second["failure"]["stage"] == "render"
    assert "score" not in second
    assert "turns" not in second


def test_steps_spans_and_endings_are_rows(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    recorder.span(Span(kind="render", item="7.0.0", start_s=1.0, end_s=2.5))
    recorder.group(make_group(task=make_task(7)), ending=Ending.FILTERED, step=4)
    recorder.step(5, {"reward/mean": 0.25})
    (metrics,) = read_rows(tmp_path / METRICS)
    assert (metrics["step"], metrics["reward/mean"]) == (5, 0.25)
    assert list(read_rows(tmp_path / EVENTS)) == [
        {"event": "span", "kind": "render", "item": "7.0.0", "start_s": 1.0, "end_s": 2.5},
        {"event": "group", "ordinal": 7, "ending": "filtered", "step": 4},
    ]
    recorder.close()


def test_a_resumed_run_goes_on_after_a_torn_row(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    recorder.step(1, {"loss": 1.0})
    recorder.close()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 2, "lo')
    recorder = JsonlRecorder(tmp_path)
    recorder.step(2, {"loss": 0.5})
    recorder.close()
    assert [row["step"] for row in read_rows(tmp_path / METRICS)] == [1, 2]


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert list(read_rows(tmp_path / "nothing.jsonl")) == []


def test_a_step_that_was_done_again_counts_once_as_it_was_the_last_time(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    for step, reward in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25), (3, 0.35)):
        recorder.step(step, {"reward/mean": reward})
    recorder.close()
    rows = read_steps(tmp_path)
    assert [(row["step"], row["reward/mean"]) for row in rows] == [(1, 0.1), (2, 0.25), (3, 0.35)]


def seen_trajectory(
    prompts: Sequence[Sequence[int]] = ((1, 5, 6), (1, 5, 6, 10, 11, 2, 7)), **last: Any
) -> Trajectory:
    turns = [make_turn(prompt_ids=prompt) for prompt in prompts]
    return make_trajectory(turns=(*turns[:-1], replace(turns[-1], **last)))


OTHERS = (
    seen_trajectory([(1, 4), (1, 5, 6, 10, 11, 2, 7)]),
    seen_trajectory([(1, 5), (1, 5, 6, 10, 11, 2, 7)]),
    seen_trajectory([(1, 5, 6), (1, 5, 6, 10, 11, 2, 8)]),
    seen_trajectory([(1, 5, 6, 10, 11, 2, 7), (1, 5, 6)]),
    seen_trajectory([(1, 5, 6, 10, 11, 2, 7)]),
    seen_trajectory(completion=make_completion((10, 12, 2))),
    seen_trajectory(completion=make_completion(logprobs=(-0.5, -0.5, -0.5000000000000001))),
    seen_trajectory(images=(make_seen_image("a"),)),
    seen_trajectory(images=(make_seen_image("b"),)),
)
"""Each differs in one thing: a prompt, its length, the order, the number of turns, a sampled
token, the last bit of a logprob, pixels."""


def test_digests_are_equal_for_what_the_learner_sees_and_for_nothing_else() -> None:
    text = seen_trajectory(text="nobody trains on this")
    assert trajectory_digest(text) == trajectory_digest(seen_trajectory())
    digests = {trajectory_digest(one) for one in (text, *OTHERS)}
    assert len(digests) == 1 + len(OTHERS)
