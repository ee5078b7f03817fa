"""A judge that is a language model with eyes: K-Score grades and the text reward.

In: a task with its ground truth, and a rendered image or an answer. Out: a verdict, the mean of
`judge.votes` votes (rewards/panel.py). The text judge sees the chosen references as images, not
only as words. Raises JudgeError when no valid verdict could be had; InfraError for an image whose
bytes are gone.
"""

import json

from core.errors import JudgeError
from core.protocols import ImageVerdict, TextVerdict
from core.records import Answer, ImageRef, Task
from rewards.kscore import WEIGHTS
from rewards.panel import Grades, Panel, Question
from rewards.replies import (
    IMAGE_SCALE,
    TEXT_SCALE,
    read_grade,
    read_object,
    read_rationale,
    read_text_accuracy,
)
from rewards.rubrics import Rubrics, digest
from rewards.schemas import reply_schema


class ModelJudge:
    """Implements core.protocols.Judge."""

    def __init__(self, panel: Panel, rubrics: Rubrics) -> None:
        self._panel = panel
        self._rubrics = rubrics

    @property
    def name(self) -> str:
        return self._panel.name

    @property
    def prompt_sha(self) -> str:
        return digest(self._rubrics.image, self._rubrics.text)

    async def spent_usd(self) -> float:
        return self._panel.spent_usd

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        looked_for = (f"What to look for: {task.rubric}",) if task.rubric else ()
        question = Question(
            rubric=self._rubrics.image,
            content=(
                f"Task: {task.prompt}",
                *("Image 1, the generated picture:", image),
                *("Image 2, the ground truth:", _truth(task)),
                *looked_for,
            ),
            read=_read_image,
            schema=_IMAGE_SCHEMA,
        )
        ballot = await self._panel.ask(question)
        return ImageVerdict(
            faithfulness=_number(ballot.grades, "faithfulness"),
            visual_correctness=_number(ballot.grades, "visual_correctness"),
            text_accuracy=ballot.grades["text_accuracy"],
            aesthetics=_number(ballot.grades, "aesthetics"),
            rationale=ballot.rationale,
            took=ballot.took,
        )

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        graded = {"prompt": answer.gen_prompt, "notes_of_references": list(answer.notes)}
        question = Question(
            rubric=self._rubrics.text,
            content=(
                f"Task: {task.prompt}\n{json.dumps({'answer': graded}, ensure_ascii=False)}",
                *("Image 1, the ground truth:", _truth(task)),
                *(("The references of the answer, in order:",) if answer.chosen else ()),
                *answer.chosen,
            ),
            read=_read_text,
            schema=_TEXT_SCHEMA,
        )
        ballot = await self._panel.ask(question)
        return TextVerdict(
            value=_number(ballot.grades, "score"), rationale=ballot.rationale, took=ballot.took
        )


_IMAGE_SCHEMA = reply_schema(
    dict.fromkeys(WEIGHTS, IMAGE_SCALE), nullable=frozenset({"text_accuracy"})
)
_TEXT_SCHEMA = reply_schema({"score": TEXT_SCALE})


def _read_image(text: str) -> tuple[Grades, str]:
    reply = read_object(text)
    grades: dict[str, float | None] = {
        name: read_grade(reply, name, scale=IMAGE_SCALE)
        for name in WEIGHTS
        if name != "text_accuracy"
    }
    grades["text_accuracy"] = read_text_accuracy(reply)
    return grades, read_rationale(reply)


def _read_text(text: str) -> tuple[Grades, str]:
    reply = read_object(text)
    return {"score": read_grade(reply, "score", scale=TEXT_SCALE)}, read_rationale(reply)


def _number(grades: Grades, name: str) -> float:
    value = grades[name]
    if value is None:  # a kept vote of another schema
        raise JudgeError(f"the verdict has no {name}", retryable=False)
    return value


def _truth(task: Task) -> ImageRef:
    if task.ground_truth is None:
        message = f"task {task.task_id} has no ground-truth image to judge against"
        raise JudgeError(message, retryable=False)
    return task.ground_truth
