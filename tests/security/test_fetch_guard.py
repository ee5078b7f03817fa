"""The corpus of hostile URLs, redirects, answers and bodies against the real client on loopback."""

import asyncio
import contextlib
import gzip
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from core.errors import ToolError
from envs.guard import Guard, is_public
from envs.http import AiohttpClient
from tests.security.hostile_answers import BODIES, BOMB, HEAD, RESPONSES
from tests.security.hostile_urls import ANSWERS, BLOCKED, ORDINARY, PUBLIC, REDIRECTS, URLS


class ScriptedNames(AbstractResolver):
    """A name service that gives one answer after the other; `asked` keeps the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer
        ]

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def fetching(
    *, allow: Sequence[str] = (), names: AbstractResolver | None = None
) -> AsyncIterator[AiohttpClient]:
    client = AiohttpClient(
        allow=allow,
        blocked_hosts=BLOCKED,
        resolver=lambda: names or ScriptedNames(["192.0.2.1"]),
    )
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """host:port of a server on loopback."""
    server = web.Application()
    server.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def speaking(*pieces: bytes) -> AsyncIterator[str]:
    """host:port of a server that reads a request, says these bytes, whatever they are, and ends."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def get(client: AiohttpClient, url: str, *, timeout_s: float = 5.0) -> bytes:
    return (await client.request("GET", url, timeout_s=timeout_s, max_bytes=10_000)).body


@pytest.mark.parametrize(("url", "reason"), URLS, ids=[ascii(url)[:60] for url, _ in URLS])
async def test_a_hostile_url_is_refused_before_its_name_is_resolved(url: str, reason: str) -> None:
    names = ScriptedNames(["192.0.2.1"])
    async with fetching(names=names) as client:
        with pytest.raises(ToolError) as caught:
            await get(client, url)
        assert caught.value.error_type == f"refused: {reason}"
        assert not caught.value.retryable
        assert client.refusals == {reason: 1}
    assert names.asked == []


@pytest.mark.parametrize(("location", "reason"), REDIRECTS)
async def test_a_hostile_redirect_is_refused(location: str, reason: str) -> None:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    names = ScriptedNames(["192.0.2.1"])
    async with serving(away) as host, fetching(allow=[host], names=names) as client:
        with pytest.raises(ToolError) as caught:
            await get(client, f"http://{host}/start")
        assert caught.value.error_type == f"refused: {reason}"
    assert names.asked == []


@pytest.mark.parametrize("answer", ANSWERS, ids=" ".join)
async def test_a_name_that_leads_to_a_private_address_is_refused(answer: Sequence[str]) -> None:
    async with fetching(names=ScriptedNames(answer)) as client:
        with pytest.raises(ToolError, match="refused") as caught:
            await get(client, "http://rebind.test/")
        assert caught.value.error_type == "refused: address"


async def test_an_answer_that_changes_after_the_check_is_never_asked_for() -> None:
    """The address that was checked is the one that is connected to: nobody asks a second time."""
    names = ScriptedNames(["240.0.0.0"], ["127.0.0.1"])
    guard = Guard()
    async with fetching(names=names) as client:
        with pytest.raises(ToolError):
            await get(client, "http://rebind.test/")
    assert names.asked == ["rebind.test"]
    with pytest.raises(ToolError):
        guard.check_answer("rebind.test", 80, ["240.0.0.0"])


async def test_an_answer_that_changes_between_two_requests_or_hops_is_checked_again() -> None:
    reached: list[str] = []

    async def away(request: web.Request) -> web.Response:
        reached.append(request.host)
        return web.Response(
            status=302,
            headers={"Location": "http://rebind.test/second", "Connection": "close"},
        )

    async with serving(away) as host:
        port = int(host.rpartition(":")[2])
        names = ScriptedNames(["127.0.0.1"], ["127.0.0.1"])
        async with fetching(allow=[f"first.test:{port}"], names=names) as client:
            with pytest.raises(ToolError, match=r"rebind\.test are refused: it is at 127\.0\.0\.1"):
                await get(client, f"http://first.test:{port}/start")
    assert reached == [f"first.test:{port}"]
    assert names.asked == ["first.test", "rebind.test"]


async def test_the_socket_itself_refuses_what_slipped_through_the_name_check() -> None:
    """The last of three layers, tested alone: aiohttp hands it the address that it connects to."""
    async with fetching() as client:
        for address in ("127.0.0.1", "169.254.169.254"):
            with pytest.raises(PermissionError, match="refused"):
                client._open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", ORDINARY)
def test_ordinary_urls_pass(url: str) -> None:
    checked = Guard().check_url(url)
    assert checked.fragment == ""
    assert str(Guard().check_url(str(checked))) == str(checked)


@pytest.mark.parametrize("name", RESPONSES)
async def test_a_hostile_response_is_an_error_in_time_and_memory(name: str) -> None:
    async with speaking(*RESPONSES[name]) as host, fetching(allow=[host]) as client:
        with pytest.raises(ToolError):
            await get(client, f"http://{host}/")


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_expands_is_cut_off(name: str) -> None:
    encoding, body = BODIES[name]

    async def expand(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Encoding": encoding})

    async with serving(expand) as host, fetching(allow=[host]) as client:
        with pytest.raises(ToolError):
            await get(client, f"http://{host}/")


async def test_a_bomb_is_never_unfolded_further_than_the_limit() -> None:
    """What one read of the network may unfold to is bounded, not only what is kept."""

    async def expand(request: web.Request) -> web.Response:
        return web.Response(body=folded, headers={"Content-Encoding": "gzip"})

    folded = gzip.compress(BOMB)
    async with serving(expand) as host, fetching(allow=[host]) as client:
        tracemalloc.start()
        with pytest.raises(ToolError, match="longer than 10000 bytes"):
            await get(client, f"http://{host}/")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8_000_000


async def test_headers_that_drip_are_cut_off_in_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(HEAD)
            for _ in range(100):
                writer.write(b"X: y\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = AiohttpClient(allow=[host], first_byte_s=0.2)
    with pytest.raises(ToolError, match=r"no headers in 0\.2 s"):
        await get(client, f"http://{host}/")
    await client.close()
    server.close()
