"""The blend R = (1 - a) image + a text, and the way back from a blended score."""

import pytest

from core.protocols import ImageVerdict, TextVerdict
from core.records import Answer, ImageRef, RenderedImage, RenderRequest, Task, TaskMeta
from rewards.reward import DualReward, image_reward, text_reward

REF = ImageRef(sha256="0" * 64, media_type="image/png", width=1, height=1)
TASK = Task(task_id="t", ordinal=0, prompt="p", ground_truth=REF, meta=TaskMeta(category="art"))
ANSWER = Answer(gen_prompt="g", chosen=(), notes=())
RENDERED = RenderedImage(
    image=REF,
    request=RenderRequest(prompt="g", references=(), seed=0, steps=1, model="m"),
    seconds=0.1,
    cached=False,
)


class SetJudge:
    """A judge whose verdicts are set beforehand."""

    name = "set"
    prompt_sha = "abc"

    async def spent_usd(self) -> float:
        return 0.0

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        return ImageVerdict(
            faithfulness=1.0,
            visual_correctness=1.0,
            text_accuracy=0.5,
            aesthetics=0.5,
            rationale="near",
        )

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        return TextVerdict(value=0.25, rationale="thin")


@pytest.mark.parametrize(("a", "expected"), [(0.0, 0.75), (0.5, 0.5), (1.0, 0.25)])
async def test_blend(a: float, expected: float) -> None:
    reward = DualReward(judge=SetJudge(), text_weight=a, na_rule="renormalise")
    image = await reward.image_parts(task=TASK, rendered=RENDERED)
    text = await reward.text_parts(task=TASK, answer=ANSWER)
    score = reward.blend(text_parts=text, image_parts=image)
    assert score.value == pytest.approx(expected)
    assert image_reward(score) == pytest.approx(0.75)
    assert text_reward(score) == (None if a == 0 else 0.25)
    assert {part.provenance.judge for part in score.parts} == {"set"}
    assert sum(part.weight for part in score.parts) == pytest.approx(1.0)
