"""Any OpenAI-compatible chat endpoint that takes text and images: judges and summarisers use it.

In: a system text, and content parts in order. Out: what `read` makes of the reply; a reply that
`read` refuses with a retryable StageError is asked for again. Temperature is 0.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from core.endpoint import Endpoint, HttpRequest
from core.errors import StageError
from core.protocols import HttpResponse

T = TypeVar("T")

MAX_REPLY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image part: encoded bytes and what they are."""

    data: bytes
    media_type: str


Part = str | Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    text: str
    finish_reason: str
    """"stop"; "length" when the reply was cut."""
    prompt_tokens: int
    completion_tokens: int


class ChatModel(Protocol):
    @property
    def name(self) -> str:
        """E.g. "openai:gpt-4.1"."""
        ...

    async def complete(
        self,
        *,
        system: str,
        content: Sequence[Part],
        max_tokens: int,
        read: Callable[[ChatReply], T],
        schema: Mapping[str, Any] | None = None,
    ) -> T:
        """`schema`: JSON schema that the endpoint is asked to decode by. Raises a StageError."""
        ...


class OpenAIChat:
    """Implements `ChatModel` over `POST {base_url}/chat/completions`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        base_url: str,
        model: str,
        api_key: str,
        error: type[StageError],
    ) -> None:
        """`error` is the endpoint's kind; an empty `api_key` sends none."""
        self._endpoint = endpoint
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._error = error

    @property
    def name(self) -> str:
        return f"openai:{self._model}"

    async def complete(
        self,
        *,
        system: str,
        content: Sequence[Part],
        max_tokens: int,
        read: Callable[[ChatReply], T],
        schema: Mapping[str, Any] | None = None,
    ) -> T:
        body: dict[str, Any] = {
            "model": self._model,
            "temperature": 0,
            "max_tokens": max_tokens,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": [_part(part) for part in content]},
            ],
        }
        if schema is not None:
            named = {"name": "reply", "strict": True, "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        request = HttpRequest(
            method="POST",
            url=self._url,
            headers=self._headers,
            json_body=body,
            max_bytes=MAX_REPLY_BYTES,
        )
        return await self._endpoint.ask(request, lambda response: read(self._reply(response)))

    def _reply(self, response: HttpResponse) -> ChatReply:
        try:
            value = json.loads(response.body)
            choice, usage = value["choices"][0], value.get("usage") or {}
            text = choice["message"]["content"]
            reply = ChatReply(
                text=text,
                finish_reason=str(choice.get("finish_reason")),
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            message = f"the endpoint sent no chat completion: {error!r}"
            raise self._error(message, error_type="BadReply") from error
        if not isinstance(text, str):
            raise self._error("the endpoint sent a completion without text", error_type="BadReply")
        return reply


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    encoded = base64.b64encode(part.data).decode()
    url = f"data:{part.media_type};base64,{encoded}"
    return {"type": "image_url", "image_url": {"url": url}}
