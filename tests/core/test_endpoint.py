"""The polite client against an in-memory network."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from core.endpoint import Endpoint, HttpRequest, Limits, error_detail, retry_after_s
from core.errors import JudgeError, StageError, ToolError
from core.protocols import HttpResponse
from tests.fakes.http import MemoryHttp

URL = "https://api.test/x"
REQUEST = HttpRequest(method="POST", url=URL, headers={"K": "secret"}, json_body={"q": 1})


def reply(body: Any = b"{}", *, status: int = 200, **headers: str) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status=status, headers=named, body=data)


def make(
    handler: Callable[..., Any], *, error: type[StageError] = ToolError, **limits: Any
) -> tuple[Endpoint, MemoryHttp]:
    values: dict[str, Any] = {
        **{"per_second": 1e6, "max_in_flight": 8, "timeout_s": 1.0, "deadline_s": 5.0},
        **{"max_tries": 3, "first_pause_s": 0.001},
    }
    http = MemoryHttp(handler)
    endpoint = Endpoint(http, name="api.test", limits=Limits(**(values | limits)), error=error)
    return endpoint, http


def scripted(*responses: HttpResponse) -> Callable[..., HttpResponse]:
    left = list(responses)
    return lambda *_: left.pop(0)


async def test_a_good_answer_is_read_once() -> None:
    endpoint, http = make(lambda *_: reply({"a": 1}))

    assert await endpoint.ask(REQUEST, lambda r: json.loads(r.body)["a"]) == 1
    assert http.events == [("POST", URL, {"K": "secret"}, {"q": 1})]
    counters = endpoint.counters()
    assert (counters.asked, counters.exchanges, counters.failures) == (1, 1, {})
    assert counters.bytes_received == len(b'{"a": 1}')


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_a_busy_service_is_asked_again(status: int) -> None:
    endpoint, http = make(scripted(reply(b"busy", status=status), reply()))

    assert await endpoint.ask(REQUEST, lambda r: r.status) == 200
    assert len(http.events) == 2
    assert endpoint.counters().failures == {f"HTTP {status}": 1}


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_what_cannot_get_better_is_not_asked_again(status: int) -> None:
    endpoint, http = make(lambda *_: reply({"message": "no"}, status=status))

    with pytest.raises(ToolError, match=f"api.test answered HTTP {status}: no") as caught:
        await endpoint.ask(REQUEST, lambda r: r)
    assert len(http.events) == 1
    assert not caught.value.retryable
    assert "secret" not in repr(REQUEST) + str(caught.value)


async def test_every_failure_is_of_the_endpoints_own_kind() -> None:
    def down(*_: Any) -> HttpResponse:
        raise ToolError("connection refused", error_type="OSError")

    endpoint, http = make(down, error=JudgeError)

    with pytest.raises(JudgeError, match="connection refused") as caught:
        await endpoint.ask(REQUEST, lambda r: r)
    assert (len(http.events), caught.value.error_type) == (3, "OSError")


async def test_half_a_character_in_an_error_is_no_other_error() -> None:
    endpoint, http = make(lambda *_: reply({"error": "bad \ud800"}, status=400), error=JudgeError)
    with pytest.raises(JudgeError, match="HTTP 400: bad"):
        await endpoint.ask(REQUEST, lambda r: r)
    assert len(http.events) == 1


async def test_a_body_that_the_reader_refuses_is_asked_for_again() -> None:
    endpoint, _ = make(scripted(reply(b"nonsense"), reply(b"fine")), error=JudgeError)

    def read(response: HttpResponse) -> bytes:
        if response.body != b"fine":
            raise JudgeError("not a verdict", error_type="BadReply")
        return response.body

    assert await endpoint.ask(REQUEST, read) == b"fine"
    assert endpoint.counters().failures == {"BadReply": 1}


async def test_callers_that_give_up_take_no_turn_from_those_behind_them() -> None:
    endpoint, http = make(lambda *_: reply(), per_second=1, deadline_s=1.8)

    async def ask() -> bool:
        try:
            return await endpoint.ask(REQUEST, lambda r: True)
        except ToolError:
            return False

    crowd = await asyncio.gather(*(ask() for _ in range(8)))  # turns come at 0, 1, 2, ...

    assert crowd.count(True) == len(http.events) == 2
    assert await ask()


async def test_retry_after_holds_back_every_caller() -> None:
    endpoint, _ = make(scripted(reply(b"", status=429, retry_after="0.3"), reply(), reply()))
    started = time.monotonic()

    async def late() -> None:
        await asyncio.sleep(0.05)
        await endpoint.ask(REQUEST, lambda r: r)

    await asyncio.gather(endpoint.ask(REQUEST, lambda r: r), late())

    assert time.monotonic() - started >= 0.3


async def test_retry_after_holds_back_also_those_who_wait_for_their_turn() -> None:
    begun: list[float] = []

    def handler(*_: Any) -> HttpResponse:
        begun.append(time.monotonic())
        return reply(b"", status=429, retry_after="0.4") if len(begun) == 1 else reply()

    endpoint, _ = make(handler, per_second=20)
    await asyncio.gather(*(endpoint.ask(REQUEST, lambda r: r) for _ in range(4)))

    assert len(begun) == 5
    assert begun[1] - begun[0] >= 0.4
    assert begun[4] - begun[0] >= 0.4 + 0.14, "and then at the pace of before"


async def test_a_wish_longer_than_any_pause_of_ours_is_kept() -> None:
    endpoint, http = make(
        scripted(reply(b"", status=429, retry_after="0.3"), reply()), max_pause_s=0.01, max_tries=2
    )
    started = time.monotonic()

    assert (await endpoint.ask(REQUEST, lambda r: r)).status == 200
    assert len(http.events) == 2
    assert time.monotonic() - started >= 0.3


async def test_a_wish_beyond_the_deadline_fails_at_once_and_spends_no_try() -> None:
    endpoint, http = make(lambda *_: reply(b"", status=429, retry_after="900"), deadline_s=300.0)

    async with asyncio.timeout(60):
        for _ in range(2):
            with pytest.raises(ToolError, match=r"within 300 s \(it wants to be left alone for"):
                await endpoint.ask(REQUEST, lambda r: r)
    assert len(http.events) == 1


@pytest.mark.parametrize("status", [400, 401, 200])
async def test_a_key_that_the_service_repeats_is_in_no_message(status: int) -> None:
    key = "sk-0123456789"
    # The end of what is quoted falls into the key: its beginning is as secret.
    echo = {"error": {"message": "x" * 170 + f" invalid header Bearer {key}, {key}"}}
    request = HttpRequest(method="GET", url=URL, headers={"Authorization": f"Bearer {key}"})
    endpoint, _ = make(lambda *_: reply(echo, status=status), max_tries=1)

    def read(response: HttpResponse) -> None:
        raise ToolError(json.loads(response.body)["error"]["message"])

    with pytest.raises(ToolError, match="invalid header") as caught:
        await endpoint.ask(request, read)
    assert "***" in str(caught.value)
    assert "sk-" not in str(caught.value)


async def test_a_key_in_the_query_string_is_in_no_message_either() -> None:
    request = HttpRequest(method="GET", url=f"{URL}?q=kea&api_key=abcd-1234-efgh")
    endpoint, _ = make(lambda *_: reply({"error": "no such key: abcd-1234-efgh"}, status=401))

    with pytest.raises(ToolError, match="no such key") as caught:
        await endpoint.ask(request, lambda r: r)
    assert "abcd" not in str(caught.value)


async def test_a_revised_request_is_no_try_and_keeps_the_deadline() -> None:
    endpoint, http = make(
        lambda _, __, body: reply(status=200 if body["q"] == 3 else 400), max_tries=1
    )
    revised = iter(replace(REQUEST, json_body={"q": n}) for n in (2, 3))

    response = await endpoint.ask(REQUEST, lambda r: r, revise=lambda error: next(revised))
    assert response.status == 200
    assert [body["q"] for *_, body in http.events] == [1, 2, 3]


async def test_the_deadline_bounds_everything_and_tells_the_last_fault() -> None:
    endpoint, _ = make(
        lambda *_: reply(b"", status=429, retry_after="9"), deadline_s=0.2, max_tries=99
    )

    with pytest.raises(ToolError, match=r"no answer within 0\.2 s.*; last: .*HTTP 429"):
        await endpoint.ask(REQUEST, lambda r: r)


async def test_no_more_are_in_flight_and_no_more_begin_than_the_limits_allow() -> None:
    running = most = 0

    async def slow(*_: Any) -> HttpResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return reply()

    endpoint, _ = make(slow, max_in_flight=3, per_second=100)
    started = time.monotonic()
    await asyncio.gather(*(endpoint.ask(REQUEST, lambda r: r) for _ in range(20)))

    assert most <= 3
    assert time.monotonic() - started >= 0.19, "20 starts at 100 a second"


def test_retry_after_may_be_seconds_a_date_or_nonsense() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)

    assert retry_after_s(reply(retry_after="2.5")) == 2.5
    assert 25 < retry_after_s(reply(retry_after=soon)) <= 30
    assert [retry_after_s(reply(retry_after=text)) for text in ("soon", "-4", "")] == [0, 0, 0]
    assert retry_after_s(reply()) == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message": "Unauthorized.", "statusCode": 403}', "Unauthorized."),
        (b'{"error": {"message": "slow down", "type": "x"}}', "slow down"),
        (b'{"detail": {"error": "bad key"}}', "bad key"),
        (b'{"error": "bad key"}', "bad key"),
        (b"<html>oops</html>", "<html>oops</html>"),
        (b"[1]", "[1]"),
        pytest.param(b"[" * 100_000, "[" * 200, id="nested to no end"),
    ],
)
def test_an_error_body_is_quoted_in_its_own_words(body: bytes, said: str) -> None:
    assert error_detail(body) == said
