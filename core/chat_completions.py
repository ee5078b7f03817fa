"""Any OpenAI-compatible chat endpoint that takes text and images: judges, summarisers, agents.

In: messages, each of parts in order. Out: what `read` makes of the reply; a reply that `read`
refuses with a retryable StageError is asked for again by the Endpoint, which owns every retry.
`complete` asks one question at temperature 0. An endpoint that refuses a parameter (`max_tokens`
of newer models, a schema or a temperature that it does not take) is asked without it from then on
(core/dialect.py).
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from core.dialect import Dialect
from core.endpoint import Endpoint, HttpRequest, error_detail
from core.errors import StageError
from core.protocols import HttpResponse

T = TypeVar("T")

MAX_REPLY_BYTES = 1 << 20
OPTIONAL = {
    "max_tokens": "max_completion_tokens",
    "temperature": "temperature",
    "response_format": "(response_format|json_schema|guided)",
}
"""What endpoints refuse -> what they say then; `max_tokens` in favour of its newer name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image part: encoded bytes and what they are."""

    data: bytes
    media_type: str


Part = str | Picture
Message = tuple[str, Sequence[Part]]
"""(role, its parts in order)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars for a million tokens, as the provider's price list says them."""

    prompt_usd: float = 0.0
    completion_usd: float = 0.0

    def of(self, *, prompt_tokens: int, completion_tokens: int) -> float:
        spent = prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd
        return spent / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    text: str
    finish_reason: str
    """ "stop"; "length" when the reply was cut."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float = 0.0


class ChatModel(Protocol):
    @property
    def name(self) -> str:
        """E.g. "openai:gpt-4.1"."""
        ...

    @property
    def spent_usd(self) -> float:
        """For all replies so far, also those that nobody could use."""
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
        price: Price | None = None,
        provider: str = "openai",
    ) -> None:
        """`error` is the endpoint's kind; an empty `api_key` sends none."""
        self._dialect = Dialect(endpoint, OPTIONAL)
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._error = error
        self._price = price or Price()
        self._provider = provider
        self.spent_usd = 0.0

    @property
    def name(self) -> str:
        return f"{self._provider}:{self._model}"

    async def complete(
        self,
        *,
        system: str,
        content: Sequence[Part],
        max_tokens: int,
        read: Callable[[ChatReply], T],
        schema: Mapping[str, Any] | None = None,
    ) -> T:
        return await self.converse(
            (("system", (system,)), ("user", content)),
            max_tokens=max_tokens,
            read=read,
            sampling={"temperature": 0},
            schema=schema,
        )

    async def converse(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        read: Callable[[ChatReply], T],
        sampling: Mapping[str, float],
        schema: Mapping[str, Any] | None = None,
    ) -> T:
        """Any number of turns. `sampling`: temperature, and what else the endpoint takes."""
        said = [{"role": role, "content": _content(parts)} for role, parts in messages]

        def build(left_out: frozenset[str]) -> HttpRequest:
            limit = "max_completion_tokens" if "max_tokens" in left_out else "max_tokens"
            optional = {**sampling, **(_response_format(schema) if schema else {})}
            return HttpRequest(
                method="POST",
                url=self._url,
                headers=self._headers,
                json_body={
                    "model": self._model,
                    "messages": said,
                    limit: max_tokens,
                    **{name: value for name, value in optional.items() if name not in left_out},
                },
                max_bytes=MAX_REPLY_BYTES,
            )

        return await self._dialect.ask(build, lambda response: read(self._reply(response)))

    def _reply(self, response: HttpResponse) -> ChatReply:
        try:
            value = json.loads(response.body)
            choice, usage = value["choices"][0], value.get("usage") or {}
            said, reason = choice["message"], str(choice.get("finish_reason"))
            text, refused = said["content"], bool(said.get("refusal"))
            tokens = {
                "prompt_tokens": int(usage.get("prompt_tokens") or 0),
                "completion_tokens": int(usage.get("completion_tokens") or 0),
            }
            cost_usd = self._price.of(**tokens)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            said = error_detail(response.body)
            message = f"the endpoint sent no chat completion ({error!r}): {said}"
            raise self._error(message, error_type="BadReply") from error
        self.spent_usd += cost_usd
        if refused or reason == "content_filter":
            message = f"{self.name} refused to answer (finish_reason {reason[:40]})"
            raise self._error(message, retryable=False, error_type="Blocked")
        if not isinstance(text, str):
            raise self._error("the endpoint sent a completion without text", error_type="BadReply")
        return ChatReply(text=text, finish_reason=reason, cost_usd=cost_usd, **tokens)


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    named = {"name": "reply", "strict": True, "schema": dict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    """One text stands alone, as every endpoint takes it."""
    (first, *more) = parts
    return first if isinstance(first, str) and not more else [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    encoded = base64.b64encode(part.data).decode()
    url = f"data:{part.media_type};base64,{encoded}"
    return {"type": "image_url", "image_url": {"url": url}}
