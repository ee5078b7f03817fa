"""One finished episode -> one member of its group: a Score, or a Failure of ours.

The outcome table comes first: an episode without a usable answer gets the floor, or is masked.
An answer is judged as text while its images render; each image is judged the moment its render
ends. With several render seeds the grades of the pictures are averaged.

Never raises for a fault of a stage: it is the member's Failure. Nothing is asked again here: a
render is the render client's to repeat, a verdict the judge's Endpoint's (or, when its actor
dies, the judge client's). In training, an episode that met a broken tool is a Failure too; in
evaluation it is scored, and `Trajectory.tool_errors` flags it.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from cluster.parts import Mode
from cluster.track.timeline import Timeline
from core.errors import (
    GensearcherError,
    JudgeError,
    RenderError,
    StageError,
    ToolError,
    boundary,
)
from core.outcomes import FLOOR, outcome_of
from core.places import Urgency
from core.protocols import ImageModel, Reward
from core.records import (
    Answer,
    Failure,
    Member,
    Provenance,
    RenderedImage,
    RenderRequest,
    Score,
    ScorePart,
    StopReason,
    Task,
    Trajectory,
)
from core.sections.scoring import RenderConfig

logger = logging.getLogger(__name__)


class Grader:
    def __init__(
        self,
        *,
        reward: Reward,
        image_model: ImageModel,
        render: RenderConfig,
        masked_reasons: Sequence[StopReason],
        timeline: Timeline,
    ) -> None:
        self._reward = reward
        self._image_model = image_model
        self._render = render
        self._masked_reasons = frozenset(masked_reasons)
        self._timeline = timeline

    async def grade(self, trajectory: Trajectory, *, mode: Mode, urgency: Urgency = ()) -> Member:
        """What became of this episode."""
        if mode == "train" and trajectory.tool_errors:
            error = ToolError(f"tool failed during the episode: {trajectory.tool_errors[0]}")
            return _member(trajectory, error.as_failure())
        masked_reasons = self._masked_reasons if mode == "train" else frozenset[StopReason]()
        outcome = outcome_of(trajectory.stop_reason, masked_reasons=masked_reasons)
        if outcome.masked or not outcome.scored_by_judges:
            return _member(trajectory, Score(value=FLOOR, parts=()), masked=outcome.masked)
        if not isinstance(trajectory.answer, Answer):
            name = trajectory.rollout_id
            raise GensearcherError(f"episode {name} ended with an answer, but it holds none")
        try:
            rendered, score = await self._score(trajectory, trajectory.answer, urgency)
        except StageError as error:
            logger.warning("rollout=%s %s: %s", trajectory.rollout_id, error.stage, error)
            return _member(trajectory, error.as_failure())
        return _member(trajectory, score, rendered=rendered)

    async def _score(
        self, trajectory: Trajectory, answer: Answer, urgency: Urgency
    ) -> tuple[RenderedImage, Score]:
        item, task = str(trajectory.rollout_id), trajectory.task
        seeds = self._render.seeds
        try:
            async with asyncio.TaskGroup() as group:
                text = group.create_task(self._judge_text(item, task, answer))
                images = [
                    group.create_task(self._judge_image(item, task, answer, seed, urgency))
                    for seed in seeds
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        rendered, image_parts = zip(*(image.result() for image in images), strict=True)
        score = self._reward.blend(
            text_parts=text.result(),
            image_parts=mean_parts(image_parts),
            shaping_parts=self._reward.shaping_parts(trajectory),
        )
        cost_usd = sum(one.cost_usd for one in rendered)
        return replace(rendered[0], cost_usd=cost_usd), score

    async def _judge_text(self, item: str, task: Task, answer: Answer) -> tuple[ScorePart, ...]:
        what = f"text judge of rollout {item}"
        with self._timeline.span("judge", item), boundary(JudgeError, what):
            return await self._reward.text_parts(task=task, answer=answer)

    async def _judge_image(
        self, item: str, task: Task, answer: Answer, seed: int, urgency: Urgency
    ) -> tuple[RenderedImage, tuple[ScorePart, ...]]:
        request = RenderRequest(
            prompt=answer.gen_prompt,
            references=answer.chosen,
            seed=seed,
            steps=self._render.steps,
            model=self._image_model.name,
        )
        with (
            self._timeline.span("render", item),
            boundary(RenderError, f"render of rollout {item}"),
        ):
            rendered = await self._image_model.render(request, urgency=urgency)
        what = f"image judge of rollout {item}"
        with self._timeline.span("judge", item), boundary(JudgeError, what):
            return rendered, await self._reward.image_parts(task=task, rendered=rendered)


def mean_parts(renders: Sequence[Sequence[ScorePart]]) -> tuple[ScorePart, ...]:
    """The mean over render seeds, such that the sum of weight * value is the mean of theirs.

    Example: 1.0 at weight 0.5 and 0.0 at weight 0.5 become 0.5 at weight 0.5.
    """
    if len(renders) == 1:
        return tuple(renders[0])
    by_name: dict[str, list[ScorePart]] = {}
    for parts in renders:
        for part in parts:
            by_name.setdefault(part.name, []).append(part)
    return tuple(_mean_part(same, num_renders=len(renders)) for same in by_name.values())


def _mean_part(parts: Sequence[ScorePart], *, num_renders: int) -> ScorePart:
    total_weight = sum(part.weight for part in parts)
    known = [(part.value, part.weight) for part in parts if part.value is not None]
    if not known:
        value = None
    elif total_weight:
        value = sum(v * weight for v, weight in known) / total_weight
    else:
        value = sum(v for v, _ in known) / len(known)
    return ScorePart(
        name=parts[0].name,
        value=value,
        weight=total_weight / num_renders,
        rationale=" | ".join(dict.fromkeys(part.rationale for part in parts)),
        provenance=_of_all([part.provenance for part in parts]),
    )


def _of_all(verdicts: Sequence[Provenance]) -> Provenance:
    """What several verdicts of one judge took together."""
    return replace(
        verdicts[0],
        cached=all(one.cached for one in verdicts),
        seconds=sum(one.seconds for one in verdicts),
        cost_usd=sum(one.cost_usd for one in verdicts),
        tokens=sum(one.tokens for one in verdicts),
        votes=sum(one.votes for one in verdicts),
        spread=max(one.spread for one in verdicts),
    )


def _member(
    trajectory: Trajectory,
    outcome: Score | Failure,
    *,
    rendered: RenderedImage | None = None,
    masked: bool = False,
) -> Member:
    return Member(
        rollout_id=trajectory.rollout_id,
        trajectory=trajectory,
        rendered=rendered,
        outcome=outcome,
        masked=masked,
    )
