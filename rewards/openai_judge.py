"""A judge behind any OpenAI-compatible chat endpoint that takes images.

Replies are validated strictly: a key that is missing, a grade off the scale or a number given as
text is asked for again, and after `max_tries` it is a JudgeError. No default number exists.
"""

import asyncio
import base64
import io
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import JudgeError, ToolError
from core.protocols import HttpClient, HttpResponse, ImageStore, ImageVerdict, TextVerdict, Took
from core.records import Answer, ImageRef, Task
from rewards.rubrics import IMAGE_RUBRIC, TEXT_RUBRIC, digest

MAX_SIDE = 1024
"""Images are shrunk to this longest side before they are sent."""
MAX_REPLY_BYTES = 1 << 20
MAX_BACKOFF_S = 30.0

_FENCE = re.compile(r"^\s*```(?:json)?\s*(.*?)\s*```\s*$", re.DOTALL)


class _ImageReply(BaseModel):
    model_config = ConfigDict(strict=True)
    rationale: str
    faithfulness: float
    visual_correctness: float
    text_accuracy: float | None
    aesthetics: float


class _TextReply(BaseModel):
    model_config = ConfigDict(strict=True)
    rationale: str
    score: float


_Reply = TypeVar("_Reply", bound=BaseModel)


def parse_reply(text: str, kind: type[_Reply], *, scale: Sequence[float]) -> _Reply:
    """A judge's reply as a typed record. Raises JudgeError unless its meaning is certain.

    A code fence around the JSON is taken off; nothing else is repaired.
    """
    fenced = _FENCE.match(text)
    try:
        reply = kind.model_validate_json(fenced.group(1) if fenced else text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "reply"
        raise JudgeError(f"judge reply: {where}: {first['msg']}") from error
    for name, value in reply:
        if name != "rationale" and value is not None and value not in scale:
            raise JudgeError(f"judge reply: {name} is {value}, not one of {list(scale)}")
    return reply


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIJudge:
    """Implements core.protocols.Judge."""

    http: HttpClient
    images: ImageStore
    base_url: str
    model: str
    api_key: str = field(repr=False)
    timeout_s: float
    max_tries: int
    in_flight: asyncio.Semaphore

    @property
    def name(self) -> str:
        return f"openai:{self.model}"

    @property
    def prompt_sha(self) -> str:
        return digest(IMAGE_RUBRIC, TEXT_RUBRIC)

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        started = time.monotonic()
        content = [_text(f"Task: {task.prompt}"), self._picture(image), self._truth(task)]
        if task.rubric:
            content.append(_text(f"What to look for: {task.rubric}"))
        reply = await self._ask(IMAGE_RUBRIC, content, _ImageReply, scale=(0, 0.5, 1))
        return ImageVerdict(
            faithfulness=float(reply.faithfulness),
            visual_correctness=float(reply.visual_correctness),
            text_accuracy=None if reply.text_accuracy is None else float(reply.text_accuracy),
            aesthetics=float(reply.aesthetics),
            rationale=reply.rationale,
            took=Took(seconds=time.monotonic() - started),
        )

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        started = time.monotonic()
        graded = {"prompt": answer.gen_prompt, "notes_of_references": list(answer.notes)}
        content = [
            _text(f"Task: {task.prompt}\n{json.dumps({'answer': graded}, ensure_ascii=False)}"),
            self._truth(task),
            *(self._picture(ref) for ref in answer.chosen),
        ]
        reply = await self._ask(TEXT_RUBRIC, content, _TextReply, scale=(0, 0.25, 0.5, 0.75, 1))
        return TextVerdict(
            value=float(reply.score),
            rationale=reply.rationale,
            took=Took(seconds=time.monotonic() - started),
        )

    async def _ask(
        self, rubric: str, content: list[Any], kind: type[_Reply], *, scale: Sequence[float]
    ) -> _Reply:
        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": rubric},
                {"role": "user", "content": content},
            ],
        }
        last = JudgeError("the judge was never asked")
        for attempt in range(self.max_tries):
            try:
                response = await self._post(body)
                return parse_reply(_reply_text(response), kind, scale=scale)
            except (JudgeError, ToolError) as error:
                last = JudgeError(
                    str(error), retryable=error.retryable, error_type=error.error_type
                )
            if not last.retryable or attempt == self.max_tries - 1:
                break
            await asyncio.sleep(min(MAX_BACKOFF_S, 2**attempt * random.uniform(0.25, 0.5)))
        raise last

    async def _post(self, body: dict[str, Any]) -> HttpResponse:
        async with self.in_flight:
            response = await self.http.request(
                "POST",
                f"{self.base_url.rstrip('/')}/chat/completions",
                headers={"Authorization": f"Bearer {self.api_key}"},
                json_body=body,
                timeout_s=self.timeout_s,
                max_bytes=MAX_REPLY_BYTES,
            )
        if response.status == 200:
            return response
        retryable = response.status == 429 or response.status >= 500
        detail = response.body[:200].decode(errors="replace")
        raise JudgeError(f"judge answered HTTP {response.status}: {detail}", retryable=retryable)

    def _truth(self, task: Task) -> dict[str, Any]:
        if task.ground_truth is None:
            message = f"task {task.task_id} has no ground-truth image to judge against"
            raise JudgeError(message, retryable=False)
        return self._picture(task.ground_truth)

    def _picture(self, ref: ImageRef) -> dict[str, Any]:
        with Image.open(io.BytesIO(self.images.get(ref))) as opened:
            picture = _on_white(opened)
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


def _on_white(image: Image.Image) -> Image.Image:
    """As RGB, transparency laid on white, as the policy saw it."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured).convert("RGB")


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _reply_text(response: HttpResponse) -> str:
    try:
        text = json.loads(response.body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise JudgeError(f"judge endpoint sent no chat completion: {error!r}") from error
    if not isinstance(text, str):
        raise JudgeError("judge endpoint sent a completion without text")
    return text
