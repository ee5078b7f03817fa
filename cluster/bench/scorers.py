"""Who grades a picture: K-Score's dimensions (nano, KnowGen), or WISE's in one of its editions.

In: a task, what was drawn for it and of what answer. Out: raw grades as `Judged`; what is made of
them stands in summary.py. Raises JudgeError, and InfraError for an image that is not in the store.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from cluster.bench.rows import Judged, Played
from core.protocols import ImageVerdict, Judge, TextVerdict
from core.records import Answer, ImageRef, Task
from rewards.kscore import WEIGHTS
from rewards.reward import TEXT_PART
from rewards.wise import GRADE_WEIGHTS, WiseEdition
from rewards.wise_judge import WiseJudge


class Scorer(Protocol):
    @property
    def judge_name(self) -> str: ...

    @property
    def rubric_sha(self) -> str: ...

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the grades."""
        ...

    @property
    def settings(self) -> str:
        """Whatever else decides the grades: how many votes, how large the pictures."""
        ...

    async def score(self, task: Task, *, played: Played, image: ImageRef) -> Judged:
        """Raises a StageError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KScoreScorer:
    """Implements `Scorer` over any `Judge`; `with_text` asks for the text reward as well."""

    judge: Judge
    with_text: bool
    settings: str = ""

    @property
    def judge_name(self) -> str:
        return self.judge.name

    @property
    def rubric_sha(self) -> str:
        return self.judge.prompt_sha

    @property
    def dimensions(self) -> tuple[str, ...]:
        return (*WEIGHTS, TEXT_PART) if self.with_text else tuple(WEIGHTS)

    async def score(self, task: Task, *, played: Played, image: ImageRef) -> Judged:
        if not self.with_text:
            return self._judged(await self.judge.judge_image(task=task, image=image), None)
        answer = Answer(
            gen_prompt=played.gen_prompt or "",
            chosen=tuple(reference.image for reference in played.references),
            notes=tuple(reference.note for reference in played.references),
        )
        try:
            async with asyncio.TaskGroup() as group:
                seen = group.create_task(self.judge.judge_image(task=task, image=image))
                read = group.create_task(self.judge.judge_text(task=task, answer=answer))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return self._judged(seen.result(), read.result())

    def _judged(self, seen: ImageVerdict, read: TextVerdict | None) -> Judged:
        grades: dict[str, float | None] = {name: getattr(seen, name) for name in WEIGHTS}
        took = [seen.took]
        rationale = seen.rationale
        if read is not None:
            grades[TEXT_PART] = read.value
            took.append(read.took)
            rationale = f"{rationale} Answer: {read.rationale}"
        return Judged(
            grades=grades,
            rationale=rationale,
            judge=self.judge_name,
            rubric_sha=self.rubric_sha,
            cost_usd=sum(one.cost_usd for one in took),
            tokens=sum(one.tokens for one in took),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WiseScorer:
    """Implements `Scorer` over WISE's judge."""

    judge: WiseJudge
    edition: WiseEdition
    settings: str = ""

    @property
    def judge_name(self) -> str:
        return self.judge.name

    @property
    def rubric_sha(self) -> str:
        return self.judge.prompt_sha

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(GRADE_WEIGHTS[self.edition])

    async def score(self, task: Task, *, played: Played, image: ImageRef) -> Judged:
        verdict = await self.judge.judge(task=task, image=image)
        return Judged(
            grades=dict(verdict.grades),
            rationale=verdict.rationale,
            judge=self.judge_name,
            rubric_sha=self.rubric_sha,
            cost_usd=verdict.took.cost_usd,
            tokens=verdict.took.tokens,
        )
