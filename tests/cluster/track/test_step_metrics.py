"""Numbers of a step: means over all that ended, sums by kind, staleness of what was consumed."""

from dataclasses import replace

import pytest

from cluster.frontier import Ending
from cluster.track.step_metrics import step_metrics
from core.records import AnswerError, Group, Stage, ToolCall, ToolResult
from rewards.kscore import WEIGHTS
from rewards.reward import TEXT_PART
from rewards.shaping import SHAPING_PARTS
from tests.builders import (
    make_failure,
    make_group,
    make_member,
    make_provenance,
    make_rendered,
    make_score,
    make_score_part,
    make_task,
    make_trajectory,
    make_turn,
)
from tests.documented_metrics import undocumented


def test_rewards_are_means_over_filtered_groups_too() -> None:
    ended = [
        (make_group([0.0, 0.5]), Ending.CONSUMED),
        (make_group([1.0, 1.0]), Ending.FILTERED),
    ]
    metrics = step_metrics(ended, consumed_at_version=0)
    assert metrics["reward/mean"] == pytest.approx((0.0 + 0.5 + 1.0 + 1.0) / 4)
    assert metrics["reward/group_std"] == pytest.approx(0.25 / 2)
    assert metrics["groups/with_spread"] == 0.5
    assert (metrics["groups/consumed"], metrics["groups/filtered"]) == (1, 1)


def test_failures_are_summed_by_stage_and_count_in_no_mean() -> None:
    group = make_group([0.5, make_failure(Stage.JUDGE), make_failure(Stage.JUDGE)])
    metrics = step_metrics([(group, Ending.FAILED)], consumed_at_version=0)
    failures = {str(stage): metrics[f"failures/{stage}"] for stage in Stage}
    assert failures == {"infra": 0, "tool": 0, "render": 0, "judge": 2, "learner": 0}
    assert metrics["reward/mean"] == 0.5
    assert metrics["groups/failed"] == 1


def test_masked_members_count_in_no_reward() -> None:
    group = make_group([0.0, 1.0, 1.0])
    members = (replace(group.members[0], masked=True), *group.members[1:])
    masked = Group(task=group.task, members=members)
    metrics = step_metrics([(masked, Ending.FILTERED)], consumed_at_version=0)
    assert metrics["reward/mean"] == 1.0
    assert metrics["members/masked"] == pytest.approx(1 / 3)


def test_staleness_is_that_of_the_oldest_token() -> None:
    task = make_task()
    old, new = (make_trajectory(task=task, version=version) for version in (3, 4))
    members = [
        replace(make_member(score, index=index, task=task), trajectory=trajectory)
        for index, (score, trajectory) in enumerate([(0.0, old), (1.0, new)])
    ]
    group = Group(task=task, members=tuple(members))
    metrics = step_metrics([(group, Ending.CONSUMED)], consumed_at_version=4)
    assert (metrics["staleness/mean"], metrics["staleness/max"]) == (0.5, 1)
    assert (metrics["staleness/of_0"], metrics["staleness/of_1"]) == (1, 1)


def test_tools_and_endings_of_episodes_are_counted() -> None:
    turn = make_turn(
        tool_call=ToolCall(name="image_search", arguments="{}"),
        tool_result=ToolResult(text="", cached=True),
    )
    trajectory = make_trajectory(turns=(turn, make_turn()), answer=AnswerError(reason="none"))
    member = replace(make_member(0.0), trajectory=trajectory)
    group = Group(task=member.trajectory.task, members=(member, member))
    metrics = step_metrics([(group, Ending.FILTERED)], consumed_at_version=0)
    counts = [metrics[f"tools/{name}"] for name in ("calls", "image_search", "search")]
    assert counts == [1, 1, 0]
    assert metrics["tools/cached"] == 1
    assert (metrics["episode/valid"], metrics["stop/no_answer"]) == (0, 1)


def test_pictures_are_counted() -> None:
    drawn = [
        make_rendered(dropped_references=2),
        make_rendered(),
        make_rendered(cached=True),
        None,
    ]
    task = make_task()
    members = [
        replace(make_member(0.5, index=index, task=task), rendered=rendered)
        for index, rendered in enumerate(drawn)
    ]
    group = Group(task=task, members=tuple(members))
    metrics = step_metrics([(group, Ending.FILTERED)], consumed_at_version=0)
    assert metrics["render/cached"] == pytest.approx(1 / 3)
    assert metrics["render/dropped_references"] == pytest.approx(2 / 3)


def test_verdicts_are_summed_once_each() -> None:
    image = make_provenance(tokens=100, spread=0.5)
    text = make_provenance(tokens=10, cached=True)
    parts = [
        replace(make_score_part("faithfulness", 1.0), provenance=image),
        replace(make_score_part("aesthetics", 1.0), provenance=image),
        replace(make_score_part(TEXT_PART, 0.5), provenance=text),
        make_score_part("gate", 1.0),
    ]
    group = make_group([make_score(1.0, parts=parts), 0.0])
    metrics = step_metrics([(group, Ending.CONSUMED)], consumed_at_version=0)
    assert metrics["judge/tokens"] == 110
    assert metrics["judge/spread"] == pytest.approx(0.5 / 3), "two verdicts and the other member's"
    assert metrics["judge/cached"] == pytest.approx(1 / 3)


def test_every_metric_of_a_step_is_documented() -> None:
    turn = make_turn(
        tool_call=ToolCall(name="browse", arguments="{}"), tool_result=ToolResult(text="")
    )
    parts = [make_score_part(name, 1.0) for name in (*WEIGHTS, TEXT_PART, *SHAPING_PARTS)]
    member = make_member(
        make_score(1.0, parts=parts), trajectory=make_trajectory(turns=(turn, make_turn()))
    )
    failures = [make_member(make_failure(stage), index=n) for n, stage in enumerate(Stage)]
    group = Group(task=make_task(), members=(member, member, *failures))
    metrics = step_metrics([(group, Ending.CONSUMED)], consumed_at_version=0)
    assert {"reward/gate", "failures/judge", "tools/browse", "staleness/max"} <= set(metrics)
    assert undocumented(metrics) == []
    assert undocumented(["canary/drift", "canary/new", "seconds/judge"]) == ["canary/new"]
