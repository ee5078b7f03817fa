"""Gemini's generateContent as a `ChatModel`: text and images in, what `read` makes of it out.

Temperature is 0; a schema becomes `responseJsonSchema`; a model that refuses either is asked
without it from then on (core/dialect.py). A reply that the provider's filters took
is an error that names the reason and is not asked for again; retries are the Endpoint's.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from core.chat_completions import MAX_REPLY_BYTES, ChatReply, Part, Price
from core.dialect import Dialect
from core.endpoint import Endpoint, HttpRequest
from core.errors import StageError
from core.protocols import HttpResponse

T = TypeVar("T")

OPTIONAL = {
    "responseJsonSchema": "(schema|responseMimeType|response_mime_type|JSON mode)",
    "temperature": "temperature",
}
"""What models refuse -> what they say then."""
FINISH_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"}
"""Gemini's word -> OpenAI's; every other reason means that there is no usable reply."""


class GeminiChat:
    """Implements `ChatModel` over `POST {base_url}/models/{model}:generateContent`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        base_url: str,
        model: str,
        api_key: str,
        error: type[StageError],
        price: Price | None = None,
    ) -> None:
        """`error` is the endpoint's kind."""
        self._dialect = Dialect(endpoint, OPTIONAL)
        self._url = f"{base_url.rstrip('/')}/models/{model}:generateContent"
        self._model = model
        self._headers = {"x-goog-api-key": api_key}
        self._error = error
        self._price = price or Price()
        self.spent_usd = 0.0

    @property
    def name(self) -> str:
        return f"gemini:{self._model}"

    async def complete(
        self,
        *,
        system: str,
        content: Sequence[Part],
        max_tokens: int,
        read: Callable[[ChatReply], T],
        schema: Mapping[str, Any] | None = None,
    ) -> T:
        parts = [_part(part) for part in content]

        def build(left_out: frozenset[str]) -> HttpRequest:
            generation: dict[str, Any] = {"maxOutputTokens": max_tokens}
            if "temperature" not in left_out:
                generation["temperature"] = 0
            if schema is not None and "responseJsonSchema" not in left_out:
                generation["responseMimeType"] = "application/json"
                generation["responseJsonSchema"] = schema
            return HttpRequest(
                method="POST",
                url=self._url,
                headers=self._headers,
                json_body={
                    "systemInstruction": {"parts": [{"text": system}]},
                    "contents": [{"role": "user", "parts": parts}],
                    "generationConfig": generation,
                },
                max_bytes=MAX_REPLY_BYTES,
            )

        return await self._dialect.ask(build, lambda response: read(self._reply(response)))

    def _reply(self, response: HttpResponse) -> ChatReply:
        try:
            value = json.loads(response.body)
            blocked = (value.get("promptFeedback") or {}).get("blockReason")
            candidate = {} if blocked else value["candidates"][0]
            reason = str(blocked or candidate.get("finishReason"))
            parts = (candidate.get("content") or {}).get("parts") or []
            texts = [part["text"] for part in parts if "text" in part and not part.get("thought")]
            text = "".join(texts)
            usage = value.get("usageMetadata") or {}
            tokens = {
                "prompt_tokens": int(usage.get("promptTokenCount") or 0),
                "completion_tokens": int(usage.get("candidatesTokenCount") or 0)
                + int(usage.get("thoughtsTokenCount") or 0),
            }
            cost_usd = self._price.of(**tokens)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            message = f"the endpoint sent no generateContent reply: {error!r}"
            raise self._error(message, error_type="BadReply") from error
        self.spent_usd += cost_usd
        if reason not in FINISH_REASONS:
            message = f"{self.name} blocked the reply: {reason[:60]}"
            raise self._error(message, retryable=False, error_type="Blocked")
        if not text:
            raise self._error(f"{self.name} sent a reply without text", error_type="BadReply")
        return ChatReply(
            text=text, finish_reason=FINISH_REASONS[reason], cost_usd=cost_usd, **tokens
        )


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    data = base64.b64encode(part.data).decode()
    return {"inlineData": {"mimeType": part.media_type, "data": data}}
