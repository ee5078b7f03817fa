"""What every web provider is made of: an endpoint, a key, a price, a strict reader of replies.

In: a request. Out: the reply as a pydantic model. Raises ToolError; one that says `retryable` (a
reply that is no whole JSON) is asked for again by the endpoint, one that is well formed and says
something else (an error with status 200) is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel, ValidationError

from core.endpoint import Endpoint, HttpRequest, error_detail
from core.errors import ToolError
from core.protocols import HttpResponse
from envs.provider import Fetched, Pay, nobody_pays

Reply = TypeVar("Reply", bound=BaseModel)
T = TypeVar("T")

GOOD = frozenset({200})


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One account at one provider."""

    name: str
    endpoint: Endpoint
    base_url: str
    api_key: str = field(default="", repr=False)
    cost_usd: float = 0.0
    """Of one answered operation."""
    pay: Pay = nobody_pays

    def get(
        self, path: str, parameters: Mapping[str, str | int], *, headers: Mapping[str, str] | None
    ) -> HttpRequest:
        """`parameters` may hold the policy's words: they are encoded."""
        url = f"{self.base_url.rstrip('/')}{path}?{urlencode(parameters)}"
        return HttpRequest(method="GET", url=url, headers=headers or {})

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        expected: frozenset[int] = GOOD,
    ) -> HttpRequest:
        url = f"{self.base_url.rstrip('/')}{path}"
        return HttpRequest(
            method="POST", url=url, headers=headers, json_body=dict(body), expected=expected
        )

    async def ask(self, request: HttpRequest, kind: type[Reply]) -> Reply:
        """The reply as a `kind`. Raises ToolError."""
        return await self.endpoint.ask(request, lambda response: parse(response, kind))

    def fetched(self, value: T, *, units: float = 1.0) -> Fetched[T]:
        """What the service has answered, paid for. `units`: how many times the price it cost."""
        cost_usd = self.cost_usd * units
        self.pay(self.name, cost_usd)
        return Fetched(value=value, provider=self.name, upstream_calls=1, cost_usd=cost_usd)


def parse(response: HttpResponse, kind: type[Reply]) -> Reply:
    try:
        return kind.model_validate_json(response.body)
    except ValidationError as error:
        cut = any(item["type"] == "json_invalid" for item in error.errors(include_url=False))
        what = "no whole JSON" if cut else "another reply than expected"
        raise ToolError(
            f"the provider sent {what}: {error_detail(response.body)}",
            retryable=cut,
            error_type="BadReply",
        ) from error


def is_web_page(url: str) -> bool:
    """True for a plain http(s) URL with a host and no user name; addresses are checked later."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    plain = url.isprintable() and " " not in url and "@" not in parts.netloc
    return plain and parts.scheme in ("http", "https") and bool(host)
