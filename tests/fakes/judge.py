"""A judge whose verdicts are set beforehand."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from core.errors import JudgeError
from core.protocols import ImageVerdict, TextVerdict
from core.records import Answer, ImageRef, Task
from tests.fakes.failures import FailureScript


def image_verdict(value: float = 0.5) -> ImageVerdict:
    """The same grade in all four dimensions."""
    return ImageVerdict(
        faithfulness=value,
        visual_correctness=value,
        text_accuracy=value,
        aesthetics=value,
        rationale="set by the test",
    )


def text_verdict(value: float = 0.5) -> TextVerdict:
    return TextVerdict(value=value, rationale="set by the test")


class FakeJudge:
    """Implements core.protocols.Judge; `fail_times` is keyed by task id.

    Events: ("judge_image", task_id, sha256) and ("judge_text", task_id, gen_prompt).
    """

    name = "fake"
    prompt_sha = ""

    def __init__(
        self,
        *,
        grade_image: Callable[[Task, ImageRef], ImageVerdict] = lambda task, image: image_verdict(),
        grade_text: Callable[[Task, Answer], TextVerdict] = lambda task, answer: text_verdict(),
        fail_times: Mapping[Hashable, int] | None = None,
        cost_usd: float = 0.0,
    ) -> None:
        self._grade_image = grade_image
        self._grade_text = grade_text
        self._failures = FailureScript(fail_times)
        self.events: list[tuple[Any, ...]] = []
        self.cost_usd = cost_usd

    async def spent_usd(self) -> float:
        return self.cost_usd * len(self.events)

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        self.events.append(("judge_image", task.task_id, image.sha256))
        self._fail_if_scripted(task)
        return self._grade_image(task, image)

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        self.events.append(("judge_text", task.task_id, answer.gen_prompt))
        self._fail_if_scripted(task)
        return self._grade_text(task, answer)

    def _fail_if_scripted(self, task: Task) -> None:
        if self._failures.should_fail(task.task_id):
            raise JudgeError(f"scripted fault of the judge on {task.task_id}")
