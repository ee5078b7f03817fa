"""The audit over what a recorder really writes: sound and resumed runs, every kind of fault."""

import json
import tracemalloc
from pathlib import Path

import pytest

from cluster.check.audit import audit_json, audit_run
from cluster.frontier import Ending, FrontierState
from cluster.track.recorder import JsonlRecorder
from core.errors import ConfigError
from core.records import Member, StopReason, ToolResult
from tests.builders import (
    make_answer,
    make_failure,
    make_group,
    make_rendered,
    make_rollout_id,
    make_score,
    make_task,
    make_trajectory,
    make_turn,
)


def end(recorder: JsonlRecorder, *ordinals: int, ending: Ending, step: int) -> None:
    for ordinal in ordinals:
        recorder.group(make_group(task=make_task(ordinal)), ending=ending, step=step)


def start(recorder: JsonlRecorder, *, step: int = 0, following: int = 0, pending=()) -> None:
    recorder.started(FrontierState(step=step, next_ordinal=following, pending=tuple(pending)))


def answered(*, error: str | None = None, rendered: bool = True, score: float = 0.0) -> Member:
    turn = make_turn(tool_result=ToolResult(text="found", error=error))
    return Member(
        rollout_id=make_rollout_id(1, 2, 0),
        trajectory=make_trajectory(turns=(turn,), answer=make_answer()),
        rendered=make_rendered() if rendered else None,
        outcome=make_score(score),
    )


def test_a_run_without_a_fault_is_sound(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    start(recorder)
    end(recorder, 1, ending=Ending.FILTERED, step=0)
    end(recorder, 0, 2, ending=Ending.CONSUMED, step=1)
    end(recorder, 3, ending=Ending.FAILED, step=1)
    end(recorder, 4, 5, ending=Ending.CONSUMED, step=2)
    recorder.member(answered(score=0.5), mode="train", step=1)
    recorder.close()

    audit = audit_run(tmp_path)

    assert audit.is_sound
    assert (audit.consumed, audit.filtered, audit.failed) == (4, 1, 1)
    assert (audit.steps, audit.starts, audit.members) == (2, 1, 1)
    assert audit_json(audit)["lost"] == 0


def test_what_a_killed_run_did_after_its_checkpoint_is_done_again_and_counts_once(
    tmp_path: Path,
) -> None:
    first = JsonlRecorder(tmp_path)
    start(first)
    end(first, 0, 1, ending=Ending.CONSUMED, step=1)
    end(first, 2, ending=Ending.FILTERED, step=1)
    end(first, 3, 4, ending=Ending.CONSUMED, step=2)
    first.close()
    second = JsonlRecorder(tmp_path)
    start(second, step=1, following=4, pending=(3,))
    end(second, 3, 4, ending=Ending.CONSUMED, step=2)
    second.close()

    audit = audit_run(tmp_path)

    assert audit.is_sound
    assert (audit.consumed, audit.filtered, audit.steps, audit.starts) == (4, 1, 2, 2)


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    start(recorder)
    end(recorder, 0, 1, ending=Ending.CONSUMED, step=1)
    start(recorder)
    end(recorder, 0, 1, ending=Ending.CONSUMED, step=1)
    recorder.close()

    assert audit_run(tmp_path).is_sound


def test_an_ordinal_that_never_ended_is_lost_and_one_that_ended_twice_is_repeated(
    tmp_path: Path,
) -> None:
    recorder = JsonlRecorder(tmp_path)
    start(recorder)
    end(recorder, 0, 2, ending=Ending.CONSUMED, step=1)
    end(recorder, 2, ending=Ending.FILTERED, step=1)
    recorder.close()

    audit = audit_run(tmp_path)

    assert (audit.lost, audit.repeated) == ((1,), (2,))
    assert not audit.is_sound


def test_ordinals_under_way_at_the_end_are_not_lost(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    start(recorder)
    end(recorder, 3, ending=Ending.FILTERED, step=0)
    end(recorder, 0, 1, ending=Ending.CONSUMED, step=1)
    recorder.close()

    assert audit_run(tmp_path).lost == ()


@pytest.mark.parametrize(
    ("member", "mode", "is_false"),
    [
        (answered(error="search is down"), "train", True),
        (answered(rendered=False), "train", True),
        (answered(), "train", False),
        (answered(error="search is down"), "eval", False),
    ],
)
def test_a_score_that_hides_a_fault_of_ours_is_named(
    tmp_path: Path, member: Member, mode: str, is_false: bool
) -> None:
    recorder = JsonlRecorder(tmp_path)
    start(recorder)
    recorder.member(member, mode=mode, step=0)
    recorder.close()

    assert audit_run(tmp_path).false_zeros == (("1.2.0",) if is_false else ())


def test_an_agents_own_mistake_and_a_failure_are_no_false_zeros(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    mistake = make_trajectory(stop_reason=StopReason.BAD_ANSWER)
    for trajectory, outcome in ((mistake, make_score(0.0)), (None, make_failure())):
        member = Member(
            rollout_id=make_rollout_id(), trajectory=trajectory, rendered=None, outcome=outcome
        )
        recorder.member(member, mode="train", step=0)
    recorder.close()

    assert audit_run(tmp_path).false_zeros == ()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no events"):
        audit_run(tmp_path)


def test_a_long_run_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    result = {"text": "x" * 20_000, "images": [], "call_key": "k", "error": None}
    row = {"mode": "train", "rollout": "1.0", "turns": [{"tool_result": result}], "masked": False}
    line = json.dumps({**row, "score": {"value": 1.0}, "rendered": {}}) + "\n"
    (tmp_path / "trajectories.jsonl").write_text(200 * line)
    (tmp_path / "events.jsonl").write_text("")

    tracemalloc.start()
    audit = audit_run(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (audit.members, audit.tools.calls) == (200, 200)
    assert peak < 200 * len(line) / 4
