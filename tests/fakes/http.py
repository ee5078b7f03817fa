"""An HTTP client whose network is a function of the test."""

import inspect
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any

from core.errors import ToolError
from core.protocols import HttpResponse
from tests.fakes.failures import FailureScript

Handler = Callable[[str, str, Any], HttpResponse | Awaitable[HttpResponse]]


class MemoryHttp:
    """Implements core.protocols.HttpClient; `fail_times` is keyed by URL.

    `handler(method, url, json_body)` answers, at once or as a coroutine; it may raise ToolError.
    Events: (method, url, headers, json_body).
    """

    def __init__(
        self, handler: Handler, *, fail_times: Mapping[Hashable, int] | None = None
    ) -> None:
        self._handler = handler
        self._failures = FailureScript(fail_times)
        self.events: list[tuple[Any, ...]] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json_body: Any = None,
        timeout_s: float,
        max_bytes: int,
    ) -> HttpResponse:
        assert timeout_s > 0
        assert max_bytes > 0
        assert not any("\n" in value for value in (headers or {}).values()), "forged header"
        self.events.append((method, url, dict(headers or {}), json_body))
        if self._failures.should_fail(url):
            raise ToolError(f"scripted network fault of {url}")
        answered = self._handler(method, url, json_body)
        response = await answered if inspect.isawaitable(answered) else answered
        if len(response.body) > max_bytes:
            raise ToolError(f"{url} sent more than {max_bytes} bytes", retryable=False)
        return response
