"""The one narrow way out to the network: core.protocols.HttpClient over aiohttp.

In: a request whose URL may have been written by a stranger. Out: the response of one exchange,
redirects of a GET followed, its body unfolded. What may be asked is settled by `envs.guard`: before
a name is resolved, for every address that it has, and for the address of the socket in the moment
of connecting, so no DNS answer can change in between; and all of it again on every redirect.
Raises ToolError when no response came, when it is too long, folded or whole, or too late, or when
it is refused; a refusal is never worth a retry and is counted in `refusals`.

aiohttp sends a GET once more when its connection is closed before an answer. Services of the
operator's config may take money for each, and are asked again by core/endpoint.py, which counts; so
their clients send a request once.
"""

import asyncio
import errno
import functools
import socket
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from core.errors import ToolError
from core.protocols import HttpResponse
from envs.guard import REFUSED, Guard, NeverSentError, allowed, reason_of, refusal

MAX_REDIRECTS = 5
MAX_HEADERS = 100
MAX_HEADER_BYTES = 8190
"""Of one header, and of the status line."""
CHUNK_BYTES = 1 << 16
NAME_THREADS = 32
REDIRECTS = frozenset({301, 302, 303, 307, 308})
DEFAULT_HEADERS = {"User-Agent": "gensearcher/0.1", "Accept-Encoding": "gzip, deflate"}


class SystemNames(AbstractResolver):
    """The system's resolver, in threads of its own: a name that takes its server ten seconds must
    not hold back the files and images that wait for the loop's threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NAME_THREADS, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        kind, flags = socket.SOCK_STREAM, socket.AI_ADDRCONFIG
        ask = functools.partial(socket.getaddrinfo, host, port, family, kind, flags=flags)
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=found_family,
                proto=protocol,
                flags=numeric,
            )
            for found_family, _, protocol, _, address in answers
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class AiohttpClient:
    """Implements core.protocols.HttpClient. Make it anywhere, use it on one event loop."""

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        blocked_hosts: Iterable[str] = (),
        may_connect: Callable[[str], bool] | None = None,
        first_byte_s: float | None = None,
        resolver: Callable[[], AbstractResolver] = SystemNames,
        max_connections: int = 64,
        max_connections_per_host: int = 16,
    ) -> None:
        """`allow` names private services as host:port. `may_connect(address)` is for a client whose
        URLs all come from the operator's config: it replaces the guard of addresses, names and
        ports, and every request is sent once. `first_byte_s` is how long the headers of a response
        may take; None: as long as the whole. `max_connections`: 0 is any number. Raises
        ConfigError for a malformed `allow`."""
        self._guard = Guard(
            allow=allowed(allow),
            blocked_hosts=frozenset(host.lower() for host in blocked_hosts),
            may_connect=may_connect,
        )
        self._asks_once = may_connect is not None
        self._first_byte_s = first_byte_s
        self._resolver = resolver
        self._limits = (max_connections, max_connections_per_host)
        self._session: aiohttp.ClientSession | None = None
        self._closer: asyncio.Task[None] | None = None
        self._pinned: set[tuple[str, int]] = set(self._guard.allow)
        self.refusals: Counter[str] = Counter()
        """By reason, since the client was made."""

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
        answered: list[URL] = []
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(method, url, headers, json_body, max_bytes, answered)
        except TimeoutError as error:
            message = f"{_host(url)} did not answer in {timeout_s:g} s"
            raise ToolError(message, error_type="TimeoutError") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            kind = type(error).__name__
            said = f"{_host(url)}: {kind}: {_words(error)}"
            raise ToolError(said[:300], error_type=kind) from error
        except ToolError as error:
            if error.error_type.startswith(REFUSED):
                self.refusals[reason_of(error)] += 1
                if not answered:
                    kind = error.error_type
                    raise NeverSentError(str(error), retryable=False, error_type=kind) from error
            raise

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._closer is not None:
            self._closer.cancel()

    async def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        json_body: Any,
        max_bytes: int,
        answered: list[URL],
    ) -> HttpResponse:
        """`answered` gets every URL that there was a response from."""
        here = self._guard.check_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._headers(method, here, headers, json_body)
            answered.append(here)
            async with response:
                location = response.headers.get("Location")
                if method != "GET" or response.status not in REDIRECTS or not location:
                    return await _read(response, max_bytes)
            there = self._guard.check_url(_join(here, location))
            if there.origin() != here.origin():
                headers = None  # they may hold a key that is meant for the first host
            here = there
        raise refusal("redirects", f"more than {MAX_REDIRECTS} redirects")

    async def _headers(
        self, method: str, url: URL, headers: Mapping[str, str] | None, json_body: Any
    ) -> aiohttp.ClientResponse:
        """A response whose body is still to come."""
        try:
            async with asyncio.timeout(self._first_byte_s):
                return await self._open_session().request(
                    method, url, headers=headers, json=json_body, allow_redirects=False
                )
        except TimeoutError as error:
            message = f"{url.raw_host} sent no headers in {self._first_byte_s:g} s"
            raise ToolError(message, error_type="FirstByteTimeout") from error

    def _open_session(self) -> aiohttp.ClientSession:
        """Made at the first request, because it belongs to the loop that runs then."""
        if self._session is None or self._session.closed:
            limit, limit_per_host = self._limits
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=limit,
                    limit_per_host=limit_per_host,
                    resolver=_GuardedResolver(self._resolver(), self._guard, self._pinned),
                    socket_factory=self._open_socket,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=DEFAULT_HEADERS,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                max_headers=MAX_HEADERS,
            )
            if self._asks_once:
                self._session._retry_connection = False  # there is no public option for it
            self._closer = asyncio.create_task(_close_with_the_loop(self._session))
        return self._session

    def _open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """aiohttp connects this socket to just the address that is checked here."""
        family, kind, protocol, _, (address, port, *_) = info
        if not self._guard.is_reachable(address) and (address, port) not in self._pinned:
            raise PermissionError(errno.EACCES, f"connections to {address} are refused")
        return socket.socket(family, kind, protocol)


def operators_client() -> AiohttpClient:
    """For services that the operator names: they may well be on a private network, and how many
    requests are in flight is settled by the Endpoint of each."""
    return AiohttpClient(
        may_connect=lambda address: True, max_connections=0, max_connections_per_host=0
    )


class _GuardedResolver(AbstractResolver):
    """What a name leads to, all of it checked; aiohttp connects to just these addresses."""

    def __init__(
        self, resolver: AbstractResolver, guard: Guard, pinned: set[tuple[str, int]]
    ) -> None:
        """The addresses of a name that the operator allows are added to `pinned`."""
        self._resolver = resolver
        self._guard = guard
        self._pinned = pinned

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found: list[ResolveResult] = await self._resolver.resolve(host, port, family)
        self._guard.check_answer(host, port, [answer["host"] for answer in found])
        if (host, port) in self._guard.allow:
            self._pinned.update((answer["host"], port) for answer in found)
        return found

    async def close(self) -> None:
        await self._resolver.close()


async def _close_with_the_loop(session: aiohttp.ClientSession) -> None:
    """A loop that ends cancels its tasks; nobody has to remember the connections."""
    try:
        await asyncio.Event().wait()
    finally:
        await session.close()


class _Unfolding:
    """A compressed body, unfolded as it comes, never further than `max_bytes`."""

    def __init__(self, encoding: str, *, max_bytes: int) -> None:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise refusal("encoding", f"the body is encoded ({encoding[:20]}) unasked")
        self._max_bytes = max_bytes
        self._size = 0
        self._inflate: Any = (
            None if encoding == "deflate" else zlib.decompressobj(zlib.MAX_WBITS | 16)
        )

    def feed(self, chunk: bytes) -> bytes:
        if self._inflate is None:  # "deflate" is zlib's frame, or from some servers none at all
            framed = chunk[0] & 0x0F == 8 and int.from_bytes(chunk[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if framed else -zlib.MAX_WBITS)
        try:
            piece: bytes = self._inflate.decompress(chunk, self._max_bytes - self._size + 1)
        except zlib.error as error:
            raise ToolError(f"the compressed body is damaged: {error}") from error
        if self._inflate.unused_data:
            raise refusal("encoding", "there is more behind the compressed body")
        self._size += len(piece)
        return piece

    def end(self) -> None:
        if self._inflate is None or not self._inflate.eof:
            raise ToolError("the compressed body ends early")


_OF_FOLDED = frozenset({"content-encoding", "content-length"})
"""Headers that are not true of an unfolded body."""


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> HttpResponse:
    """The body, at most `max_bytes` of it as sent and as unfolded."""
    too_long = refusal("length", f"the body is longer than {max_bytes} bytes")
    if (response.content_length or 0) > max_bytes:
        raise too_long
    headers = {name.lower(): value for name, value in response.headers.items()}
    encoding = ",".join(response.headers.getall("Content-Encoding", [])).strip().lower()
    unfolding = None
    if encoding not in ("", "identity"):
        unfolding = _Unfolding(encoding, max_bytes=max_bytes)
        headers = {n: v for n, v in headers.items() if n not in _OF_FOLDED}
    received = 0
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        received += len(chunk)
        body += unfolding.feed(chunk) if unfolding else chunk
        if max(received, len(body)) > max_bytes:
            raise too_long
    if unfolding and received:
        unfolding.end()
    return HttpResponse(status=response.status, headers=headers, body=bytes(body))


def _join(here: URL, location: str) -> str:
    """Where a redirect leads, its text as it came: urljoin would drop tabs without a word."""
    if not location.isprintable():
        raise refusal("url", "a redirect's URL holds a control character")
    return urljoin(str(here), location)


def _words(error: Exception) -> str:
    """Of a response that is no HTTP, aiohttp's own text holds the whole URL."""
    return error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)


def _host(url: str) -> str:
    """For messages; the rest of a URL may hold a secret."""
    try:
        return (urlsplit(url).hostname or "URL without a host")[:100]
    except ValueError:
        return "malformed URL"
