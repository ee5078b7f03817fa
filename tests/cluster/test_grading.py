"""Grading: the outcome table, the order of text judge, render and image judge, and failures."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cluster.grading import Grader, mean_parts
from cluster.track.timeline import Timeline
from core.places import Urgency
from core.protocols import ImageModel, Reward, Took
from core.records import (
    Answer,
    AnswerError,
    Failure,
    RenderedImage,
    RenderRequest,
    Score,
    ScorePart,
    Stage,
    StopReason,
    Task,
    ToolResult,
)
from core.sections.scoring import RenderConfig
from rewards.reward import DualReward, verdicts_of
from tests.builders import (
    make_answer,
    make_image_ref,
    make_score,
    make_score_part,
    make_task,
    make_trajectory,
    make_turn,
)
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge, image_verdict, text_verdict


def dual_reward(judge: FakeJudge) -> DualReward:
    return DualReward(judge=judge, text_weight=0.5, na_rule="renormalise")


def make_grader(
    *,
    reward: Reward | None = None,
    image_model: ImageModel | None = None,
    seeds: tuple[int, ...] = (0,),
    masked: tuple[StopReason, ...] = (),
) -> Grader:
    return Grader(
        reward=reward or dual_reward(FakeJudge()),
        image_model=image_model or FakeImageModel(MemoryImageStore()),
        render=RenderConfig(seeds=seeds),
        masked_reasons=masked,
        timeline=Timeline(lambda span: None),
    )


async def test_an_answer_is_scored_by_both_halves() -> None:
    judge = FakeJudge(
        grade_text=lambda task, answer: text_verdict(1.0),
        grade_image=lambda task, image: image_verdict(0.5),
    )
    member = await make_grader(reward=dual_reward(judge)).grade(make_trajectory(), mode="train")
    assert isinstance(member.outcome, Score)
    assert member.outcome.value == pytest.approx(0.5 * 1.0 + 0.5 * 0.5)
    assert member.rendered is not None
    assert not member.masked


async def test_an_episode_without_an_answer_gets_the_floor_and_is_never_rendered() -> None:
    image_model = FakeImageModel(MemoryImageStore())
    trajectory = make_trajectory(answer=AnswerError(reason="no answer"))
    member = await make_grader(image_model=image_model).grade(trajectory, mode="train")
    assert member.outcome == Score(value=0.0, parts=())
    assert not member.masked
    assert image_model.events == []


async def test_a_masked_stop_reason_is_masked_in_training_but_counts_in_evaluation() -> None:
    trajectory = make_trajectory(
        answer=AnswerError(reason="too long"), stop_reason=StopReason.TOO_LONG
    )
    grader = make_grader(masked=(StopReason.TOO_LONG,))
    assert (await grader.grade(trajectory, mode="train")).masked
    assert not (await grader.grade(trajectory, mode="eval")).masked


async def test_a_broken_tool_is_a_failure_in_training_and_scored_in_evaluation() -> None:
    broken = make_turn(tool_result=ToolResult(text="search unavailable", error="503"))
    trajectory = make_trajectory(turns=(broken, make_turn()))
    member = await make_grader().grade(trajectory, mode="train")
    assert isinstance(member.outcome, Failure)
    assert member.outcome.stage is Stage.TOOL
    assert member.outcome.retryable
    assert isinstance((await make_grader().grade(trajectory, mode="eval")).outcome, Score)


async def test_a_fault_of_the_judge_is_a_failure_and_is_not_asked_about_again_here() -> None:
    task = make_task()
    judge = FakeJudge(fail_times={task.task_id: 1})
    member = await make_grader(reward=dual_reward(judge)).grade(
        make_trajectory(task=task), mode="train"
    )
    assert isinstance(member.outcome, Failure)
    assert member.outcome.stage is Stage.JUDGE
    texts = [event for event in judge.events if event[0] == "judge_text"]
    assert len(texts) == 1, "its Endpoint owns the retries"


async def test_a_render_that_cannot_work_is_not_tried_again() -> None:
    image_model = FakeImageModel(MemoryImageStore(), max_references=1)
    unknown = make_answer(chosen=[make_image_ref("nowhere")])
    member = await make_grader(image_model=image_model).grade(
        make_trajectory(answer=unknown), mode="train"
    )
    assert isinstance(member.outcome, Failure)
    assert member.outcome.stage is Stage.INFRA
    refused = FakeImageModel(MemoryImageStore(), fail_times={make_answer().gen_prompt: 99})
    member = await make_grader(image_model=refused).grade(make_trajectory(), mode="train")
    assert isinstance(member.outcome, Failure)
    assert member.outcome.stage is Stage.RENDER
    assert len(refused.events) == 1, "the render client owns the retries"


async def test_any_exception_of_a_stage_is_attributed_to_it() -> None:
    def broken(task: Task, answer: Answer) -> Any:
        raise ZeroDivisionError("a bug")

    judge = FakeJudge(grade_text=broken)
    member = await make_grader(reward=dual_reward(judge)).grade(make_trajectory(), mode="train")
    assert isinstance(member.outcome, Failure)
    assert member.outcome.stage is Stage.JUDGE
    assert member.outcome.error_type == "ZeroDivisionError"


class OrderedParts:
    """A reward and an image model that write down when each piece of work began and ended."""

    name, max_references = "ordered", 3

    def __init__(self) -> None:
        self.events: list[str] = []
        self.text_may_end = asyncio.Event()

    async def render(self, request: RenderRequest, *, urgency: Urgency = ()) -> RenderedImage:
        self.events.append("render begins")
        await asyncio.sleep(0.01)
        self.events.append("render ends")
        return RenderedImage(image=make_image_ref(), request=request, seconds=0.01, cached=False)

    async def text_parts(self, *, task: Task, answer: Answer) -> tuple[ScorePart, ...]:
        self.events.append("text begins")
        await self.text_may_end.wait()
        self.events.append("text ends")
        return ()

    async def image_parts(self, *, task: Task, rendered: RenderedImage) -> tuple[ScorePart, ...]:
        self.events.append("image judge")
        self.text_may_end.set()
        return (make_score_part("faithfulness", 1.0),)

    def shaping_parts(self, trajectory: Any) -> tuple[ScorePart, ...]:
        return ()

    def blend(self, *, text_parts: Any, image_parts: Any, shaping_parts: Any) -> Score:
        return make_score(1.0, parts=image_parts)


async def test_text_is_judged_while_the_image_renders_and_the_image_at_once_after() -> None:
    parts = OrderedParts()
    await make_grader(reward=parts, image_model=parts).grade(make_trajectory(), mode="train")
    assert set(parts.events[:2]) == {"text begins", "render begins"}
    assert parts.events[2:] == ["render ends", "image judge", "text ends"]


async def test_the_scores_of_several_render_seeds_are_averaged() -> None:
    store = MemoryImageStore()
    image_model = FakeImageModel(store, cost_usd=0.25)
    grades = iter([0.0, 1.0])
    judge = FakeJudge(grade_image=lambda task, image: image_verdict(next(grades)))
    grader = make_grader(reward=dual_reward(judge), image_model=image_model, seeds=(3, 4))
    member = await grader.grade(make_trajectory(), mode="train")
    assert [request.seed for _, request in image_model.events] == [3, 4]
    assert isinstance(member.outcome, Score)
    assert member.outcome.value == pytest.approx(0.5 * 0.5 + 0.5 * (0.0 + 1.0) / 2)
    assert member.rendered is not None
    assert member.rendered.cost_usd == 0.5, "of both pictures"


def test_the_mean_of_parts_keeps_the_value_a_weighted_sum() -> None:
    applies = [make_score_part("text", 1.0, weight=0.5), make_score_part("looks", 0.0, weight=0.5)]
    absent = [make_score_part("text", None, weight=0.0), make_score_part("looks", 1.0, weight=1.0)]
    mean = mean_parts([applies, absent])
    assert sum(p.weight * p.value for p in mean if p.value is not None) == pytest.approx(0.75)
    assert [(p.name, p.value, p.weight) for p in mean] == [
        ("text", 1.0, 0.25),
        ("looks", pytest.approx(2 / 3), 0.75),
    ]


async def test_what_the_verdicts_of_all_renders_took_is_counted_and_the_text_once() -> None:
    took = iter(
        [
            Took(tokens=10, cost_usd=0.5, spread=0.5),
            Took(tokens=20, cost_usd=0.25, cached=True),
        ]
    )
    judge = FakeJudge(
        grade_image=lambda task, image: replace(image_verdict(), took=next(took)),
        grade_text=lambda task, answer: replace(text_verdict(), took=Took(tokens=3, cost_usd=1.0)),
    )
    grader = make_grader(reward=dual_reward(judge), seeds=(3, 4))
    member = await grader.grade(make_trajectory(), mode="train")
    assert isinstance(member.outcome, Score)
    image, text = verdicts_of(member.outcome)
    assert (image.tokens, image.cost_usd, image.votes, image.spread) == (30, 0.75, 2, 0.5)
    assert not image.cached, "one of the two was paid for"
    assert (text.tokens, text.cost_usd, text.votes) == (3, 1.0, 1)
