"""A judge on loopback that speaks OpenAI's chat completions and Gemini's generateContent.

    async with JudgeServer() as server:      # on the loop of the test
        ... server.base_url, server.gemini_url ...
    with in_thread(JudgeServer()) as server: # beside a blocking test, or a subprocess

Equal requests get equal verdicts: the grades are made of the request's digest, and one reply has
the keys of every rubric. Faults are scripted by (content, how often it was asked before). Paid
calls, those that were answered with a verdict, are counted by content.
"""

import asyncio
import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from aiohttp import web

from tests.fakes.loopback import LoopbackServer


class Fault(StrEnum):
    STORM = "storm"
    """HTTP 429 with Retry-After."""
    ERROR = "error"
    """HTTP 503."""
    TRUNCATED = "truncated"
    """The verdict is cut: finish_reason "length"."""
    WRONG_JSON = "wrong_json"
    OFF_SCALE = "off_scale"
    SLOW = "slow"
    """A good verdict, after `slow_s`."""
    FENCED = "fenced"
    """A good verdict inside a code fence, with prose before it."""
    BLOCKED = "blocked"
    """The safety filter of the provider took the reply."""
    REFUSES_SCHEMA = "refuses_schema"
    """HTTP 400 for response_format, or Gemini's responseJsonSchema."""
    REFUSES_MAX_TOKENS = "refuses_max_tokens"
    """HTTP 400 for max_tokens: newer models want max_completion_tokens."""


PAID = frozenset({None, Fault.SLOW, Fault.FENCED})
"""Answered with a verdict that a client must accept."""

FaultScript = Callable[[str, int], Fault | None]
"""(digest of the content, how often it was asked before) -> what goes wrong, or None."""


def no_faults(content: str, asked_before: int) -> Fault | None:
    return None


def first_tries_fail(*faults: Fault, share: float) -> FaultScript:
    """The first try of that share of contents fails, by one of the faults; later ones work."""

    def script(content: str, asked_before: int) -> Fault | None:
        number = int(content[:8], 16)
        if asked_before or number % 1000 >= share * 1000:
            return None
        return faults[number // 1000 % len(faults)]

    return script


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it arrived."""

    content: str
    images: tuple[bytes, ...]
    media_types: tuple[str, ...]
    text: str
    """System text and text parts, joined by newlines."""
    body: dict[str, Any]


class JudgeServer(LoopbackServer):
    def __init__(
        self,
        *,
        faults: FaultScript = no_faults,
        delay_s: float = 0.0,
        slow_s: float = 1.0,
        retry_after_s: float = 0.05,
        api_key: str = "",
    ) -> None:
        """With an `api_key`, a request with another one gets HTTP 401."""
        self._faults = faults
        self._delay_s = delay_s
        self._slow_s = slow_s
        self._retry_after_s = retry_after_s
        self._api_key = api_key
        self.asked: Counter[str] = Counter()
        """Requests by content, failed ones included."""
        self.paid: Counter[str] = Counter()
        """Verdicts by content."""
        self.faults_made: Counter[Fault] = Counter()
        self.seen: list[Seen] = []
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def base_url(self) -> str:
        """Of the OpenAI-compatible API."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def gemini_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1beta"

    @property
    def num_calls(self) -> int:
        return self.asked.total()

    @property
    def num_paid_twice(self) -> int:
        return sum(count - 1 for count in self.paid.values())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self._openai),
            web.post("/v1beta/models/{call}", self._gemini),
        ]

    async def _openai(self, request: web.Request) -> web.Response:
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _openai_error(401, "Incorrect API key provided")
        body = await request.json()
        parts = [part for message in body["messages"] for part in _parts(message["content"])]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        seen = _seen(
            body,
            texts=[part["text"] for part in parts if part["type"] == "text"],
            images=[tuple(url.removeprefix("data:").split(";base64,", 1)) for url in urls],
        )
        fault, grades = await self._answer(seen, body)
        match fault:
            case Fault.STORM:
                wait = {"Retry-After": f"{self._retry_after_s:g}"}
                return _openai_error(429, "Rate limit reached", headers=wait)
            case Fault.ERROR:
                return _openai_error(503, "The server is overloaded")
            case Fault.REFUSES_SCHEMA if "response_format" in body:
                return _openai_error(400, "response_format json_schema is not supported")
            case Fault.REFUSES_MAX_TOKENS if "max_tokens" in body:
                text = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
                return _openai_error(400, text)
        reasons = {Fault.TRUNCATED: "length", Fault.BLOCKED: "content_filter"}
        choice = {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None if fault is Fault.BLOCKED else _reply_text(grades, fault),
            },
            "finish_reason": reasons.get(fault, "stop") if fault else "stop",
            "logprobs": None,
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        return web.json_response(
            {
                "id": f"chatcmpl-{seen.content[:12]}",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
        )

    async def _gemini(self, request: web.Request) -> web.Response:
        if self._api_key and request.headers.get("x-goog-api-key") != self._api_key:
            return _gemini_error(403, "API key not valid", "PERMISSION_DENIED")
        if not request.match_info["call"].endswith(":generateContent"):
            return _gemini_error(404, "no such method", "NOT_FOUND")
        body = await request.json()
        contents = [body.get("systemInstruction", {}), *body["contents"]]
        parts = [part for content in contents for part in content.get("parts", ())]
        data = [part["inlineData"] for part in parts if "inlineData" in part]
        seen = _seen(
            body,
            texts=[part["text"] for part in parts if "text" in part],
            images=[(item["mimeType"], item["data"]) for item in data],
        )
        fault, grades = await self._answer(seen, body)
        if fault is Fault.STORM:
            return _gemini_error(429, "Quota exceeded", "RESOURCE_EXHAUSTED")
        if fault is Fault.ERROR:
            return _gemini_error(503, "The model is overloaded", "UNAVAILABLE")
        if fault is Fault.REFUSES_SCHEMA:
            text = 'Invalid JSON payload received. Unknown name "responseJsonSchema"'
            return _gemini_error(400, text, "INVALID_ARGUMENT")
        usage = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}
        if fault is Fault.BLOCKED:
            blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage}
            return web.json_response(blocked)
        candidate = {
            "content": {"role": "model", "parts": [{"text": _reply_text(grades, fault)}]},
            "finishReason": "MAX_TOKENS" if fault is Fault.TRUNCATED else "STOP",
            "index": 0,
        }
        return web.json_response({"candidates": [candidate], "usageMetadata": usage})

    async def _answer(
        self, seen: Seen, body: dict[str, Any]
    ) -> tuple[Fault | None, dict[str, Any]]:
        self.seen.append(seen)
        fault = self._faults(seen.content, self.asked[seen.content])
        self.asked[seen.content] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._slow_s if fault is Fault.SLOW else self._delay_s)
        finally:
            self.in_flight -= 1
        refuses = {
            Fault.REFUSES_SCHEMA: {"response_format", "responseJsonSchema"},
            Fault.REFUSES_MAX_TOKENS: {"max_tokens"},
        }
        if fault in refuses and not refuses[fault] & {*body, *body.get("generationConfig", ())}:
            fault = None
        if fault:
            self.faults_made[fault] += 1
        if fault in PAID:
            self.paid[seen.content] += 1
        return fault, verdict_of(seen.content)


Server = TypeVar("Server", bound=AbstractAsyncContextManager[Any])


@contextmanager
def in_thread(server: Server) -> Iterator[Server]:
    """The server on a loop and a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="judge-server", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def verdict_of(content: str) -> dict[str, Any]:
    """The grades that a content gets, under the keys of every rubric."""
    digits = [int(content[n : n + 2], 16) for n in range(0, 16, 2)]
    levels = (0, 0.5, 1)
    return {
        "rationale": f"made of {content[:8]}",
        "faithfulness": levels[digits[0] % 3],
        "visual_correctness": levels[digits[1] % 3],
        "text_accuracy": None if digits[2] % 4 == 0 else levels[digits[3] % 3],
        "aesthetics": levels[digits[4] % 3],
        "score": digits[5] % 2,
        "consistency": digits[6] % 3,
        "realism": digits[7] % 3,
        "aesthetic_quality": digits[0] % 3,
    }


def _reply_text(grades: dict[str, Any], fault: Fault | None) -> str:
    text = json.dumps(grades)
    match fault:
        case Fault.TRUNCATED:
            return text[: len(text) // 2]
        case Fault.WRONG_JSON:
            return text.replace(":", "=")
        case Fault.OFF_SCALE:
            wrong = {name: 7 for name, value in grades.items() if not isinstance(value, str)}
            return json.dumps(grades | wrong)
        case Fault.FENCED:
            return f"Here is my verdict.\n```json\n{text}\n```"
        case _:
            return text


def _seen(body: dict[str, Any], *, texts: list[str], images: list[tuple[str, ...]]) -> Seen:
    """What a request asks, however the client spells the rest of it."""
    payload = json.dumps([texts, images]).encode()
    return Seen(
        content=hashlib.sha256(payload).hexdigest(),
        images=tuple(base64.b64decode(data) for _, data in images),
        media_types=tuple(kind for kind, _ in images),
        text="\n".join(texts),
        body=body,
    )


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _openai_error(
    status: int, message: str, *, headers: dict[str, str] | None = None
) -> web.Response:
    error = {"message": message, "type": "error", "param": None, "code": None}
    return web.json_response({"error": error}, status=status, headers=headers)


def _gemini_error(status: int, message: str, name: str) -> web.Response:
    error = {"code": status, "message": message, "status": name}
    return web.json_response({"error": error}, status=status)
