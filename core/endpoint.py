"""One service behind HTTP, asked politely: a rate, places, retries, one deadline, and counts.

In: `HttpRequest`s and a function that reads the response. Out: what that function made of it.
Whatever goes wrong is one `StageError` of the endpoint's own kind: the network, a status that was
not expected, a body that `read` refuses (it raises a StageError of its own; a retryable one is
asked again). A service that says Retry-After is left alone for that long by every caller.
"""

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from statistics import quantiles
from typing import Any, TypeVar

from core.errors import StageError, ToolError
from core.protocols import HttpClient, HttpResponse

T = TypeVar("T")

LATENCIES_KEPT = 1024
"""Of the latest exchanges; p50 and p95 are over them."""
DETAIL_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How a service wants to be asked, and how long we wait for it."""

    per_second: float
    """Exchanges that may begin in one second, on average."""
    max_in_flight: int
    timeout_s: float
    """Of one try."""
    deadline_s: float
    """Of one `ask`, with its waits and all its tries."""
    max_tries: int
    first_pause_s: float = 0.5
    """Before the second try; doubled for each further one, and spread by a quarter either way."""
    max_pause_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One exchange to be made; address and headers may hold a key, so they are in no message."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    json_body: Any = field(default=None, repr=False)
    max_bytes: int = 4 << 20
    """A longer body is refused."""
    expected: frozenset[int] = frozenset({200})
    """Statuses that `read` is given; every other one is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCounters:
    """Since the endpoint was made."""

    asked: int
    """Calls of `ask`."""
    exchanges: int
    """Requests sent, retries included: what a provider bills."""
    failures: Mapping[str, int]
    """Tries that failed, by kind of error, e.g. {"HTTP 429": 3}."""
    bytes_received: int
    p50_s: float
    p95_s: float


class Endpoint:
    """Belongs to the event loop that it is first used on."""

    def __init__(
        self, http: HttpClient, *, name: str, limits: Limits, error: type[StageError] = ToolError
    ) -> None:
        """`error` is the kind that every failure becomes; `name` stands in its message."""
        self._http = http
        self._name = name
        self._limits = limits
        self._error = error
        self._places = asyncio.Semaphore(limits.max_in_flight)
        self._pace = _Pace(limits.per_second)
        self._asked = self._exchanges = self._bytes_received = 0
        self._failures: Counter[str] = Counter()
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)

    async def ask(self, request: HttpRequest, read: Callable[[HttpResponse], T]) -> T:
        """What `read` makes of the response. Raises the endpoint's `error` after the last try."""
        self._asked += 1
        last: StageError | None = None
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                for tries in range(1, self._limits.max_tries + 1):
                    try:
                        return read(await self._exchange(request))
                    except StageError as error:
                        last = self._count_failure(error)
                    if not last.retryable or tries == self._limits.max_tries:
                        raise last
                    await asyncio.sleep(self._pause_s(tries))
        except TimeoutError as error:
            message = f"{self._name} gave no answer within {self._limits.deadline_s:g} s"
            raise self._error(f"{message}; last: {last}" if last else message) from error
        raise AssertionError("max_tries is at least 1")

    def counters(self) -> EndpointCounters:
        seconds = [0.0, *self._latencies_s] if len(self._latencies_s) < 2 else self._latencies_s
        percent = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [0.0] * 99
        return EndpointCounters(
            asked=self._asked,
            exchanges=self._exchanges,
            failures=dict(self._failures),
            bytes_received=self._bytes_received,
            p50_s=percent[49],
            p95_s=percent[94],
        )

    async def _exchange(self, request: HttpRequest) -> HttpResponse:
        async with self._places:
            await self._pace.wait()
            self._exchanges += 1
            started = time.monotonic()
            response = await self._http.request(
                request.method,
                request.url,
                headers=request.headers,
                json_body=request.json_body,
                timeout_s=self._limits.timeout_s,
                max_bytes=request.max_bytes,
            )
        self._latencies_s.append(time.monotonic() - started)
        self._bytes_received += len(response.body)
        if response.status not in request.expected:
            self._pace.hold(min(retry_after_s(response), self._limits.max_pause_s))
            raise self._refusal(response)
        return response

    def _refusal(self, response: HttpResponse) -> StageError:
        status = response.status
        return self._error(
            f"{self._name} answered HTTP {status}: {error_detail(response.body)}",
            retryable=status in (408, 425, 429) or status >= 500,
            error_type=f"HTTP {status}",
        )

    def _count_failure(self, error: StageError) -> StageError:
        """The same fault as this endpoint's kind of error."""
        self._failures[error.error_type] += 1
        if isinstance(error, self._error):
            return error
        return self._error(str(error), retryable=error.retryable, error_type=error.error_type)

    def _pause_s(self, tries: int) -> float:
        pause_s: float = self._limits.first_pause_s * 2 ** (tries - 1)
        return min(self._limits.max_pause_s, pause_s) * random.uniform(0.75, 1.25)


class _Pace:
    """Starts at most `per_second` a second, and none before `hold` is over."""

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1.0 / per_second
        self._next_s = 0.0

    async def wait(self) -> None:
        now = time.monotonic()
        start_s = max(now, self._next_s)
        self._next_s = start_s + self._interval_s
        if start_s > now:
            await asyncio.sleep(start_s - now)

    def hold(self, seconds: float) -> None:
        self._next_s = max(self._next_s, time.monotonic() + seconds)


def retry_after_s(response: HttpResponse) -> float:
    """The service's wish in seconds, given as a number or as a date; nonsense is 0."""
    text = response.headers.get("retry-after", "0")
    try:
        return max(0.0, min(float(text), 3600.0))
    except ValueError:
        pass
    try:
        return max(0.0, min(parsedate_to_datetime(text).timestamp() - time.time(), 3600.0))
    except (ValueError, OverflowError):
        return 0.0


def error_detail(body: bytes) -> str:
    """What an error body says, in the shapes that services use; else its beginning."""
    try:
        value = json.loads(body)
    except ValueError:
        return body[:DETAIL_CHARS].decode(errors="replace")
    for _ in range(3):
        if not isinstance(value, dict):
            break
        value = next((value[k] for k in ("error", "message", "detail") if k in value), str(value))
    return str(value)[:DETAIL_CHARS]
