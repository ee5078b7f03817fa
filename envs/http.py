"""The one narrow way out to the network: core.protocols.HttpClient over aiohttp.

In: a request whose URL may have been written by a stranger. Out: the response of one exchange,
redirects of a GET followed. Only http and https; every connection, also after a redirect, goes to
an address that was checked in the moment of connecting, so no DNS answer can change in between.
Raises ToolError when no response came, when it is too long, too late, compressed, or refused.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp

from core.errors import ToolError
from core.protocols import HttpResponse

MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
REDIRECTS = frozenset({301, 302, 303, 307, 308})
DEFAULT_HEADERS = {
    "User-Agent": "gensearcher/0.1",
    "Accept-Encoding": "identity",  # a compressed body could unfold to any size
}


def is_public(address: str) -> bool:
    """True for addresses of the public internet; false for those that hold another inside."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip.is_reserved or ip.sixtofour or ip.teredo):
        return False
    return ip.is_global and not ip.is_multicast


class AiohttpClient:
    """Implements core.protocols.HttpClient. Make it anywhere, use it on one event loop."""

    def __init__(
        self,
        *,
        may_connect: Callable[[str], bool] = is_public,
        max_connections: int = 64,
        max_connections_per_host: int = 16,
    ) -> None:
        """`may_connect(address)` says where connections may go; anything but the default is for
        endpoints that the operator's config names."""
        self._may_connect = may_connect
        self._limits = (max_connections, max_connections_per_host)
        self._session: aiohttp.ClientSession | None = None

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
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(method, url, headers, json_body, max_bytes)
        except TimeoutError as error:
            raise ToolError(f"{_host(url)} did not answer in {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            kind = type(error).__name__
            raise ToolError(f"{_host(url)}: {kind}: {error}"[:300], error_type=kind) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        json_body: Any,
        max_bytes: int,
    ) -> HttpResponse:
        for _ in range(MAX_REDIRECTS + 1):
            here = _checked(url)
            async with self._open_session().request(
                method, url, headers=headers, json=json_body, allow_redirects=False
            ) as response:
                location = response.headers.get("Location")
                if method != "GET" or response.status not in REDIRECTS or not location:
                    return await _read(response, max_bytes)
            url = urljoin(url, location)
            if _origin(_checked(url)) != _origin(here):
                headers = None  # they may hold a key that is meant for the first host
        raise ToolError(f"more than {MAX_REDIRECTS} redirects", retryable=False)

    def _open_session(self) -> aiohttp.ClientSession:
        """Made at the first request, because it belongs to the loop that runs then."""
        if self._session is None:
            limit, limit_per_host = self._limits
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=limit, limit_per_host=limit_per_host, socket_factory=self._open_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=DEFAULT_HEADERS,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session

    def _open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """aiohttp connects this socket to just the address that is checked here."""
        family, kind, protocol, _, (address, *_) = info
        if not self._may_connect(address):
            raise PermissionError(errno.EACCES, f"connections to {address} are refused")
        return socket.socket(family, kind, protocol)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> HttpResponse:
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise ToolError(f"the body is encoded ({encoding[:20]}) unasked", retryable=False)
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise ToolError(f"the body is longer than {max_bytes} bytes", retryable=False)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpResponse(status=response.status, headers=headers, body=bytes(body))


def _checked(url: str) -> SplitResult:
    """Raises ToolError for anything but a plain http(s) URL with a host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ToolError(
            f"only http and https are fetched, not {parts.scheme[:20]!r}", retryable=False
        )
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise ToolError("the URL has no host, or it holds a user name", retryable=False)
    return parts


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


def _host(url: str) -> str:
    """For messages; the rest of a URL may hold a secret."""
    try:
        return (urlsplit(url).hostname or "URL without a host")[:100]
    except ValueError:
        return "malformed URL"
