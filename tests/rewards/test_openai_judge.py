"""Replies become verdicts or JudgeErrors, never invented numbers."""

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import JudgeError
from core.protocols import HttpResponse
from core.records import Answer, Task, TaskMeta
from rewards.openai_judge import OpenAIJudge, _ImageReply, _TextReply, parse_reply
from tests.fakes.http import MemoryHttp
from tests.fakes.images import MemoryImageStore

GRADES = {"faithfulness": 1, "visual_correctness": 0.5, "text_accuracy": None, "aesthetics": 1}
GOOD = json.dumps({"rationale": "fine", **GRADES})


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, format="PNG")
    return buffer.getvalue()


def _completion(text: str) -> HttpResponse:
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    return HttpResponse(status=200, headers={}, body=body)


def _judge(handler: Callable[..., HttpResponse]) -> tuple[OpenAIJudge, Task]:
    store = MemoryImageStore()
    truth = store.put(_png())
    judge = OpenAIJudge(
        http=MemoryHttp(handler),
        images=store,
        base_url="http://judge/v1/",
        model="m",
        api_key="secret-key",
        timeout_s=1.0,
        max_tries=3,
        in_flight=asyncio.Semaphore(1),
    )
    meta = TaskMeta(category="art")
    task = Task(task_id="t", ordinal=0, prompt="draw", ground_truth=truth, meta=meta)
    return judge, task


async def test_a_verdict_keeps_the_judges_grades_and_sends_both_pictures() -> None:
    seen: list[Any] = []

    def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        seen.append((url, json_body))
        return _completion(f"```json\n{GOOD}\n```")

    judge, task = _judge(handler)
    assert task.ground_truth is not None
    verdict = await judge.judge_image(task=task, image=task.ground_truth)
    assert (verdict.faithfulness, verdict.visual_correctness) == (1.0, 0.5)
    assert verdict.text_accuracy is None
    url, body = seen[0]
    assert url == "http://judge/v1/chat/completions"
    pictures = [c["image_url"]["url"] for c in body["messages"][1]["content"] if "image_url" in c]
    assert len(pictures) == 2
    assert base64.b64decode(pictures[0].split(",")[1]).startswith(b"\x89PNG")
    assert "secret-key" not in repr(judge)


async def test_an_off_scale_reply_is_asked_again_and_then_a_judge_error() -> None:
    calls = 0

    def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        nonlocal calls
        calls += 1
        return _completion(json.dumps({"rationale": "r", "score": 0.6}))

    judge, task = _judge(handler)
    with pytest.raises(JudgeError, match=r"score is 0.6"):
        await judge.judge_text(task=task, answer=Answer(gen_prompt="p", chosen=(), notes=()))
    assert calls == 3


async def test_a_refused_key_is_not_retried() -> None:
    calls = 0

    def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        nonlocal calls
        calls += 1
        return HttpResponse(status=401, headers={}, body=b"bad key")

    judge, task = _judge(handler)
    with pytest.raises(JudgeError, match="HTTP 401") as raised:
        await judge.judge_text(task=task, answer=Answer(gen_prompt="p", chosen=(), notes=()))
    assert calls == 1
    assert not raised.value.retryable


async def test_transparency_reaches_the_judge_as_white() -> None:
    sent: list[str] = []

    def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        _, first, *_ = json_body["messages"][1]["content"]
        sent.append(first["image_url"]["url"])
        return _completion(GOOD)

    judge, task = _judge(handler)
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(buffer, format="PNG")
    await judge.judge_image(task=task, image=judge.images.put(buffer.getvalue()))
    data = base64.b64decode(sent[0].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        json.dumps({"rationale": "r", **GRADES, "faithfulness": "1"}),
        json.dumps({"rationale": "r", **GRADES, "faithfulness": True}),
        json.dumps({"rationale": "r", **GRADES, "aesthetics": None}),
        json.dumps({"rationale": "r", **GRADES, "aesthetics": 2}),
        json.dumps({"rationale": "r", **GRADES, "aesthetics": -0.5}),
        '{"rationale": "r", "faithfulness": NaN}',
        f"Here you are: {GOOD}",
    ],
)
def test_uncertain_replies_are_refused(text: str) -> None:
    with pytest.raises(JudgeError):
        parse_reply(text, _ImageReply, scale=(0, 0.5, 1))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
REPLIES = st.text() | st.fixed_dictionaries({"rationale": st.text(), "score": JSON_VALUES}).map(
    json.dumps
)


@settings(max_examples=500)
@given(REPLIES)
def test_garbage_never_becomes_a_number(text: str) -> None:
    try:
        reply = parse_reply(text, _TextReply, scale=(0, 0.25, 0.5, 0.75, 1))
    except JudgeError:
        return
    assert json.loads(text)["score"] == reply.score
    assert reply.score in (0, 0.25, 0.5, 0.75, 1)
