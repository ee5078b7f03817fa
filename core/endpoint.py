"""One service behind HTTP, asked politely: a rate, places, retries, one deadline, and counts.

In: `HttpRequest`s and a function that reads the response. Out: what that function made of it.
Whatever goes wrong is one `StageError` of the endpoint's own kind: the network, a status that was
not expected, a body that `read` refuses (it raises a StageError of its own; a retryable one is
asked again). A service that says Retry-After is left alone for that long by every caller; one
whose deadline ends before that fails at once. No message holds the value of a request's header
or a key of its query string, also where the service repeats it.
"""

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from core.errors import StageError, ToolError
from core.metrics import p50_and_p95
from core.protocols import HttpClient, HttpResponse

T = TypeVar("T")

LATENCIES_KEPT = 1024
"""Of the latest exchanges; p50 and p95 are over them."""
DETAIL_CHARS = 200
SECRET_CHARS = 8
"""A shorter header value is no key."""
LONGEST_HOLD_S = 3600.0
NEVER_ASKED = "Deadline"
"""`error_type` when the time was up before a first try had ended: we, or our limits, are slow."""


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
        self.name = name
        self._limits = limits
        self._error = error
        self._places = asyncio.Semaphore(limits.max_in_flight)
        self._pace = _Pace(limits.per_second)
        self._asked = self._exchanges = self._bytes_received = 0
        self._failures: Counter[str] = Counter()
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)

    async def ask(
        self,
        request: HttpRequest,
        read: Callable[[HttpResponse], T],
        *,
        revise: Callable[[StageError], HttpRequest | None] | None = None,
        in_thread: bool = False,
    ) -> T:
        """What `read` makes of the response. Raises the endpoint's `error` after the last try.

        `revise`: the request to send from then on, when a refusal says what it must be; sent at
        once, and not counted as a try. It has to end: each request less than the one before.
        `in_thread`: `read` takes long enough to be kept off the event loop.
        """
        self._asked += 1
        last: StageError | None = None
        tries = 1
        ends_s = time.monotonic() + self._limits.deadline_s
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                while True:
                    if self._pace.held_s() > ends_s - time.monotonic():
                        raise TimeoutError
                    try:
                        response = await self._exchange(request)
                        if in_thread:
                            return await asyncio.to_thread(read, response)
                        return read(response)
                    except StageError as error:
                        last = self._count_failure(error, request)
                    if revised := revise(last) if revise else None:
                        request = revised
                        continue
                    if not last.retryable or tries == self._limits.max_tries:
                        raise last
                    await asyncio.sleep(self._pause_s(tries))
                    tries += 1
        except TimeoutError as error:
            kind = last.error_type if last else NEVER_ASKED
            raise self._error(self._late(last), error_type=kind) from error

    def counters(self) -> EndpointCounters:
        p50_s, p95_s = p50_and_p95(self._latencies_s)
        return EndpointCounters(
            asked=self._asked,
            exchanges=self._exchanges,
            failures=dict(self._failures),
            bytes_received=self._bytes_received,
            p50_s=p50_s,
            p95_s=p95_s,
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
        if response.status >= 400:
            response = replace(response, body=_without_secrets(response.body, request))
        if response.status not in request.expected:
            self._pace.hold(retry_after_s(response))
            raise self._refusal(response)
        return response

    def _refusal(self, response: HttpResponse) -> StageError:
        status = response.status
        return self._error(
            f"{self.name} answered HTTP {status}: {error_detail(response.body)}",
            retryable=status in (408, 425, 429) or status >= 500,
            error_type=f"HTTP {status}",
        )

    def _count_failure(self, error: StageError, request: HttpRequest) -> StageError:
        """The same fault as this endpoint's kind of error, without the request's secrets."""
        self._failures[error.error_type] += 1
        said = str(error).encode(errors="backslashreplace")  # a reply may hold half a character
        message = _without_secrets(said, request).decode()
        if isinstance(error, self._error) and message == str(error):
            return error
        return self._error(message, retryable=error.retryable, error_type=error.error_type)

    def _late(self, last: StageError | None) -> str:
        message = f"{self.name} gave no answer within {self._limits.deadline_s:g} s"
        if held_s := self._pace.held_s():
            message += f" (it wants to be left alone for {held_s:.0f} s more)"
        return f"{message}; last: {last}" if last else message

    def _pause_s(self, tries: int) -> float:
        pause_s: float = self._limits.first_pause_s * 2 ** (tries - 1)
        return min(self._limits.max_pause_s, pause_s) * random.uniform(0.75, 1.25)


class _Pace:
    """Starts at most `per_second` a second, and none before `hold` is over."""

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1.0 / per_second
        self._next_s = self._held_until_s = 0.0
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """One caller waits for the next start and the others for their turn, so whoever gives up
        has taken nothing from those behind."""
        async with self._turn:
            start_s = time.monotonic()
            while True:
                start_s = max(start_s, self._next_s, self._held_until_s)
                left_s = start_s - time.monotonic()
                if left_s <= 0:
                    break
                await asyncio.sleep(left_s)  # a hold may be put on meanwhile
            self._next_s = start_s + self._interval_s

    def hold(self, seconds: float) -> None:
        self._held_until_s = max(self._held_until_s, time.monotonic() + seconds)

    def held_s(self) -> float:
        return max(0.0, self._held_until_s - time.monotonic())


def retry_after_s(response: HttpResponse) -> float:
    """The service's wish in seconds, given as a number or as a date; nonsense is 0."""
    text = response.headers.get("retry-after", "0")
    try:
        return max(0.0, min(float(text), LONGEST_HOLD_S))
    except ValueError:
        pass
    try:
        wish_s = parsedate_to_datetime(text).timestamp() - time.time()
        return max(0.0, min(wish_s, LONGEST_HOLD_S))
    except (ValueError, OverflowError):
        return 0.0


def _without_secrets(text: bytes, request: HttpRequest) -> bytes:
    """No value of a header, whole or after its scheme ("Bearer .."), and no key of the query
    string, as some gateways echo them."""
    query = parse_qsl(urlsplit(request.url).query)
    keys = [value for name, value in query if name.lower().endswith("key")]
    for value in (*request.headers.values(), *keys):
        for secret in (value, value.rpartition(" ")[2]):
            if len(secret) >= SECRET_CHARS:
                text = text.replace(secret.encode(), b"***")
    return text


def error_detail(body: bytes) -> str:
    """What an error body says, in the shapes that services use; else its beginning."""
    try:
        value = json.loads(body)
        for _ in range(3):
            if not isinstance(value, dict):
                break
            said = (value[k] for k in ("error", "message", "detail") if k in value)
            value = next(said, str(value))
        return str(value)[:DETAIL_CHARS]
    except (ValueError, RecursionError):  # no JSON, or nested to no end
        return body[:DETAIL_CHARS].decode(errors="replace")
