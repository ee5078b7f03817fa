"""The dual reward R = (1 - a) R_image + a R_text (arXiv 2603.28767, equation 3).

R_image is the K-Score of the rendered image, R_text asks whether the answer alone (prompt and
references) would do. The two are asked for apart, so that the text is judged while the image
renders. JudgeError passes through: a missing verdict is a failure of ours, never a number.
With shaping (rewards/shaping.py) of total weight w the whole is (1 - w) R + the shaping parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from core.protocols import Judge, Took
from core.records import (
    Answer,
    Provenance,
    RenderedImage,
    Score,
    ScorePart,
    Task,
    Trajectory,
)
from rewards.kscore import WEIGHTS, NaRule, kscore_parts, weighted_sum
from rewards.shaping import Shaping

TEXT_PART = "text_reward"


@dataclass(frozen=True, slots=True, kw_only=True)
class DualReward:
    """Implements core.protocols.Reward with one judge for both halves."""

    judge: Judge
    text_weight: float
    """a, in [0, 1]. At 0 the text is not judged at all."""
    na_rule: NaRule
    shaping: Shaping = field(default_factory=Shaping)

    async def text_parts(self, *, task: Task, answer: Answer) -> tuple[ScorePart, ...]:
        if self.text_weight == 0:
            return ()
        verdict = await self.judge.judge_text(task=task, answer=answer)
        part = ScorePart(
            name=TEXT_PART,
            value=verdict.value,
            weight=1.0,
            rationale=verdict.rationale,
            provenance=self._provenance(verdict.took),
        )
        return (part,)

    async def image_parts(self, *, task: Task, rendered: RenderedImage) -> tuple[ScorePart, ...]:
        verdict = await self.judge.judge_image(task=task, image=rendered.image)
        provenance = self._provenance(verdict.took)
        return kscore_parts(verdict, na_rule=self.na_rule, provenance=provenance)

    def shaping_parts(self, trajectory: Trajectory) -> tuple[ScorePart, ...]:
        return self.shaping.parts(trajectory)

    def blend(
        self,
        *,
        text_parts: Sequence[ScorePart],
        image_parts: Sequence[ScorePart],
        shaping_parts: Sequence[ScorePart] = (),
    ) -> Score:
        """Parts with their weights in the whole; value = sum of weight * value."""
        judged = 1.0 - sum(part.weight for part in shaping_parts)
        parts = (
            *_scaled(image_parts, judged * (1.0 - self.text_weight)),
            *_scaled(text_parts, judged * self.text_weight),
            *shaping_parts,
        )
        return Score(value=weighted_sum(parts), parts=parts)

    def _provenance(self, took: Took) -> Provenance:
        return Provenance(
            judge=self.judge.name,
            prompt_sha=self.judge.prompt_sha,
            cached=took.cached,
            seconds=took.seconds,
            cost_usd=took.cost_usd,
            tokens=took.tokens,
            votes=took.votes,
            spread=took.spread,
        )


def image_reward(score: Score) -> float:
    """R_image back from a blended score, in [0, 1]. Raises ValueError when nothing was rendered."""
    parts = tuple(part for part in score.parts if part.name in WEIGHTS)
    if not any(part.weight for part in parts):  # text_weight is 1, but the image was judged
        parts = tuple(
            replace(part, weight=WEIGHTS[part.name]) for part in parts if part.value is not None
        )
    total = sum(part.weight for part in parts)
    if not total:
        raise ValueError("the score has no image part")
    return weighted_sum(parts) / total


def text_reward(score: Score) -> float | None:
    """R_text back from a blended score; None when the text was not judged."""
    return next((part.value for part in score.parts if part.name == TEXT_PART), None)


def verdicts_of(score: Score) -> tuple[Provenance, ...]:
    """What each verdict took, once: the four dimensions of an image are one verdict."""
    dimensions = [part.provenance for part in score.parts if part.name in WEIGHTS]
    texts = [part.provenance for part in score.parts if part.name == TEXT_PART]
    return (*dimensions[:1], *texts)


def _scaled(parts: Sequence[ScorePart], factor: float) -> tuple[ScorePart, ...]:
    return tuple(replace(part, weight=part.weight * factor) for part in parts)
