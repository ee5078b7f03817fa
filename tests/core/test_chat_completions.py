"""The chat client's requests and replies, over an in-memory network."""

import json
from typing import Any

import pytest

from core.chat_completions import ChatReply, OpenAIChat, Picture, Price
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


def make(*bodies: bytes, price: Price | None = None) -> tuple[OpenAIChat, MemoryHttp]:
    left = list(bodies)
    http = MemoryHttp(lambda *_: HttpResponse(status=200, headers={}, body=left.pop(0)))
    endpoint = Endpoint(http, name="judge.test", limits=LIMITS, error=JudgeError)
    chat = OpenAIChat(
        endpoint,
        base_url="https://judge.test/v1/",
        model="m",
        api_key="k",
        error=JudgeError,
        price=price,
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


async def test_an_error_that_comes_with_status_200_is_quoted() -> None:
    body = b'{"error": {"message": "upstream is overloaded", "code": 502}}'
    chat, _ = make(body, body)
    with pytest.raises(JudgeError, match="upstream is overloaded"):
        await ask(chat)


def refusing(*words: str) -> tuple[OpenAIChat, MemoryHttp]:
    """An endpoint that answers HTTP 400 to bodies which hold one of these parameters."""

    def handler(method: str, url: str, body: Any) -> HttpResponse:
        refused = next((word for word in words if word in body), None)
        if refused is None:
            return HttpResponse(status=200, headers={}, body=completion("fine"))
        hint = " Use 'max_completion_tokens' instead." if refused == "max_tokens" else ""
        error = {"error": {"message": f"Unsupported parameter: '{refused}'.{hint}"}}
        return HttpResponse(status=400, headers={}, body=json.dumps(error).encode())

    http = MemoryHttp(handler)
    endpoint = Endpoint(http, name="judge.test", limits=LIMITS, error=JudgeError)
    chat = OpenAIChat(endpoint, base_url="https://j/v1", model="m", api_key="", error=JudgeError)
    return chat, http


async def test_a_refused_parameter_is_left_out_from_then_on() -> None:
    chat, http = refusing("max_tokens", "response_format", "temperature")

    assert (await ask(chat, schema={"type": "object"})).text == "fine"
    assert len(http.events) == 4
    last = http.events[-1][3]
    assert last["max_completion_tokens"] == 9
    assert not {"max_tokens", "response_format", "temperature"} & set(last)
    await ask(chat, schema={"type": "object"})
    assert len(http.events) == 5, "what the endpoint takes was learnt once"


def answering(*refusals: str, then: bytes = b"") -> tuple[OpenAIChat, MemoryHttp]:
    """HTTP 400 with each of these messages, then a completion."""
    left = list(refusals)

    def handler(*_: Any) -> HttpResponse:
        if not left:
            return HttpResponse(status=200, headers={}, body=then or completion("fine"))
        error = {"error": {"message": left.pop(0)}}
        return HttpResponse(status=400, headers={}, body=json.dumps(error).encode())

    http = MemoryHttp(handler)
    endpoint = Endpoint(http, name="judge.test", limits=LIMITS, error=JudgeError)
    chat = OpenAIChat(endpoint, base_url="https://j/v1", model="m", api_key="", error=JudgeError)
    return chat, http


@pytest.mark.parametrize(
    ("refusals", "calls"),
    [
        (["flagged: 'a map of the temperature of the sea'"], 1),
        (["Invalid prompt: 'temperature of the sea'", "Invalid prompt: no"], 2),
    ],
)
async def test_a_refusal_that_only_quotes_a_parameter_changes_nothing(
    refusals: list[str], calls: int
) -> None:
    chat, http = answering(*refusals)
    with pytest.raises(JudgeError, match="HTTP 400"):
        await ask(chat, schema={"type": "object"})
    assert len(http.events) == calls

    await ask(chat, schema={"type": "object"})
    assert http.events[-1][3]["temperature"] == 0
    assert "response_format" in http.events[-1][3]


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'temperature' does not support 0 with this model.",
        "Unrecognized request argument supplied: temperature",
        "temperature is unavailable for this model",
    ],
)
async def test_a_temperature_that_is_not_taken_is_left_out(message: str) -> None:
    chat, http = answering(message)

    assert (await ask(chat)).text == "fine"
    assert ["temperature" in body for *_, body in http.events] == [True, False]


async def test_refused_parameters_do_not_multiply_the_tries() -> None:
    words = ("max_tokens", "response_format", "temperature")
    hints = [f"Unsupported parameter: {w}, see max_completion_tokens" for w in words[:1]]
    hints += [f"Unsupported parameter: {w}" for w in words[1:]]
    chat, http = answering(*hints, then=b"no completion")

    with pytest.raises(JudgeError, match="no chat completion"):
        await ask(chat, schema={"type": "object"})
    assert len(http.events) == len(hints) + LIMITS.max_tries


async def test_another_bad_request_stays_an_error() -> None:
    chat, http = refusing("messages")

    with pytest.raises(JudgeError, match="Unsupported parameter: 'messages'"):
        await ask(chat, schema={"type": "object"})
    assert len(http.events) == 1


async def test_a_reply_that_the_provider_blocked_is_named_and_not_asked_for_again() -> None:
    body = json.loads(completion(None))
    body["choices"][0]["finish_reason"] = "content_filter"
    chat, http = make(json.dumps(body).encode(), price=Price(prompt_usd=1e6, completion_usd=2e6))

    with pytest.raises(JudgeError, match="refused to answer") as caught:
        await ask(chat)
    assert chat.spent_usd == 7 + 2 * 3, "its tokens are billed"
    assert (caught.value.error_type, caught.value.retryable, len(http.events)) == (
        "Blocked",
        False,
        1,
    )
