"""The chat client's requests and replies, over an in-memory network."""

import json
from typing import Any

import pytest

from core.chat_completions import ChatReply, OpenAIChat, Picture
from core.endpoint import Endpoint, Limits
from core.errors import JudgeError
from core.protocols import HttpResponse
from tests.fakes.http import MemoryHttp

LIMITS = Limits(
    per_second=1e6, max_in_flight=4, timeout_s=1, deadline_s=5, max_tries=2, first_pause_s=0.001
)


def completion(text: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def make(*bodies: bytes) -> tuple[OpenAIChat, MemoryHttp]:
    left = list(bodies)
    http = MemoryHttp(lambda *_: HttpResponse(status=200, headers={}, body=left.pop(0)))
    endpoint = Endpoint(http, name="judge.test", limits=LIMITS, error=JudgeError)
    chat = OpenAIChat(
        endpoint, base_url="https://judge.test/v1/", model="m", api_key="k", error=JudgeError
    )
    return chat, http


async def ask(chat: OpenAIChat, **more: Any) -> ChatReply:
    picture = Picture(data=b"abc", media_type="image/jpeg")
    return await chat.complete(
        system="rubric", content=["hello", picture], max_tokens=9, read=lambda r: r, **more
    )


async def test_text_and_pictures_are_sent_in_order_and_tokens_are_counted() -> None:
    chat, http = make(completion("fine"))

    reply = await ask(chat, schema={"type": "object"})

    assert reply == ChatReply(
        text="fine", finish_reason="stop", prompt_tokens=7, completion_tokens=3
    )
    ((method, url, headers, body),) = http.events
    assert (method, url) == ("POST", "https://judge.test/v1/chat/completions")
    assert headers == {"Authorization": "Bearer k"}
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "hello"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,YWJj"}},
    ]
    assert (body["temperature"], body["max_tokens"]) == (0, 9)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', completion(None), b"3"])
async def test_what_is_no_completion_is_asked_for_again(body: bytes) -> None:
    chat, http = make(body, completion("fine"))

    assert (await ask(chat)).text == "fine"
    assert len(http.events) == 2
