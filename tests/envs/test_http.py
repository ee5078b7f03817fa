"""The HTTP client against a server on loopback: what it lets through and what it refuses."""

import asyncio
import contextlib
import gzip
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from core.errors import ConfigError, ToolError
from core.protocols import HttpResponse
from envs.http import AiohttpClient

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def only_loopback(address: str) -> bool:
    return address == "127.0.0.1"


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The URL of a server that answers every request with `handler`."""
    server = web.Application()
    server.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[AiohttpClient]:
    client = AiohttpClient(may_connect=only_loopback)
    yield client
    await client.close()


async def get(client: AiohttpClient, url: str, *, max_bytes: int = 1000) -> HttpResponse:
    return await client.request(
        "GET", url, headers={"X-API-KEY": "k"}, timeout_s=20.0, max_bytes=max_bytes
    )


async def test_slow_names_hold_back_no_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        answered.wait(30)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    client = AiohttpClient()
    asked = [asyncio.create_task(get(client, f"http://n{n}.test/")) for n in range(16)]
    await asyncio.sleep(0.1)
    try:
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), timeout=20) == "done"
    finally:
        answered.set()
    for one in asked:
        with pytest.raises(ToolError, match="Name or service not known"):
            await one
    await client.close()


async def test_a_post_arrives_whole_and_the_answer_comes_back(client: AiohttpClient) -> None:
    async def echo(request: web.Request) -> web.Response:
        assert request.headers["X-API-KEY"] == "k"
        body = await request.json()
        return web.json_response({"got": body}, status=429, headers={"Retry-After": "3"})

    async with serving(echo) as url:
        response = await client.request(
            "POST",
            f"{url}/search",
            headers={"X-API-KEY": "k"},
            json_body={"q": "a"},
            timeout_s=20.0,
            max_bytes=1000,
        )
    assert (response.status, response.body) == (429, b'{"got": {"q": "a"}}')
    assert response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    "url",
    ["ftp://a.test/", "file:///etc/passwd", "//a.test", "", "http://", "http://u:p@a.test/", "a"],
)
async def test_only_plain_web_urls_are_fetched(client: AiohttpClient, url: str) -> None:
    with pytest.raises(ToolError):
        await get(client, url)


async def test_a_redirect_to_a_private_address_is_refused(client: AiohttpClient) -> None:
    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.2:9/secret")

    async with serving(away) as url:
        with pytest.raises(ToolError, match=r"127\.0\.0\.2 are refused"):
            await get(client, url)


async def test_a_redirect_to_another_scheme_is_refused(client: AiohttpClient) -> None:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "file:///etc/passwd"})

    async with serving(away) as url:
        with pytest.raises(ToolError, match="only http and https"):
            await get(client, url)


async def test_redirects_are_followed_and_keys_stay_with_their_host(client: AiohttpClient) -> None:
    seen: list[tuple[str, str | None]] = []

    async def second(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("X-API-KEY")))
        return web.Response(text="there")

    async with serving(second) as other:

        async def first(request: web.Request) -> web.Response:
            seen.append((request.path, request.headers.get("X-API-KEY")))
            raise web.HTTPFound("/b" if request.path == "/a" else f"{other}/c")

        async with serving(first) as url:
            response = await get(client, f"{url}/a")
    assert response.body == b"there"
    assert seen == [("/a", "k"), ("/b", "k"), ("/c", None)]


async def test_redirects_are_bounded(client: AiohttpClient) -> None:
    async def again(request: web.Request) -> web.Response:
        raise web.HTTPFound("/again")

    async with serving(again) as url:
        with pytest.raises(ToolError, match="more than 5 redirects"):
            await get(client, url)


async def test_a_post_is_not_redirected(client: AiohttpClient) -> None:
    async def away(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with serving(away) as url:
        response = await client.request("POST", url, json_body={}, timeout_s=20.0, max_bytes=1000)
    assert response.status == 307


async def test_a_long_body_is_cut_off_while_it_comes(client: AiohttpClient) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 10_000)
        return response

    async with serving(endless) as url:
        with pytest.raises(ToolError, match="longer than 1000 bytes"):
            await get(client, url)


@pytest.mark.parametrize(
    ("encoding", "squeeze"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("identity", bytes),
    ],
)
async def test_a_compressed_body_is_unfolded(
    client: AiohttpClient, encoding: str, squeeze: Callable[[bytes], bytes]
) -> None:
    async def squeezed(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "gzip, deflate"
        return web.Response(body=squeeze(b"x" * 1000), headers={"Content-Encoding": encoding})

    async with serving(squeezed) as url:
        response = await get(client, url)
    assert response.body == b"x" * 1000
    if encoding != "identity":
        assert not {"content-encoding", "content-length"} & set(response.headers)


async def test_a_server_that_is_silent_ends_in_an_error_in_time(client: AiohttpClient) -> None:
    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        return web.Response()

    async with serving(silent) as url:
        with pytest.raises(ToolError, match=r"127\.0\.0\.1 did not answer in 0.2 s"):
            await client.request("GET", url, timeout_s=0.2, max_bytes=1000)


async def test_a_closed_port_is_a_retryable_error_that_names_no_path(
    client: AiohttpClient,
) -> None:
    with pytest.raises(ToolError) as caught:
        await get(client, "http://127.0.0.1:9/path?key=secret")
    assert caught.value.retryable
    assert "secret" not in str(caught.value)


async def test_an_answer_that_is_no_http_is_an_error_that_names_no_path(
    client: AiohttpClient,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ToolError, match="Bad status line") as caught:
            await get(client, f"http://127.0.0.1:{port}/search?api_key=secret")
    assert "secret" not in str(caught.value)


async def test_the_allow_list_opens_one_port_of_one_host() -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async with serving(hello) as open_url, serving(hello) as closed_url:
        client = AiohttpClient(allow=[open_url.removeprefix("http://")])
        assert (await get(client, open_url)).body == b"hello"
        with pytest.raises(ToolError, match=r"connections to 127\.0\.0\.1 are refused"):
            await get(client, closed_url)
        assert client.refusals == {"address": 1}
        await client.close()


async def test_a_name_on_the_allow_list_may_lead_to_a_private_address() -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async with serving(hello) as url:
        port = url.rpartition(":")[2]
        client = AiohttpClient(allow=[f"localhost:{port}"])
        assert (await get(client, f"http://localhost:{port}/")).body == b"hello"
        with pytest.raises(ToolError, match="refused"):
            await get(client, url)
        await client.close()


@pytest.mark.parametrize(
    "entry", ["localhost", "localhost:", "a b:1", "u@h:1", "h:99999", "h:0", "h:1/x"]
)
def test_a_malformed_allow_list_is_named(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"tools\.guard\.allow"):
        AiohttpClient(allow=[entry])


async def test_headers_must_come_soon_and_the_body_may_take_longer() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        if request.path == "/headers":
            await asyncio.sleep(2.0)
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(1.2)
        await response.write(b"late")
        return response

    async with serving(slow) as url:
        client = AiohttpClient(may_connect=only_loopback, first_byte_s=1.0)
        with pytest.raises(ToolError, match=r"sent no headers in 1 s"):
            await get(client, f"{url}/headers")
        assert (await get(client, f"{url}/body")).body == b"late"
        await client.close()


@pytest.mark.parametrize("is_service", [True, False])
async def test_a_get_that_got_no_answer_is_sent_again_by_aiohttp_to_strangers_only(
    is_service: bool,
) -> None:
    """Whoever takes money for it is asked again by the Endpoint alone, which counts."""
    asked = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = AiohttpClient(may_connect=only_loopback) if is_service else AiohttpClient(allow=[host])
    async with server:
        with pytest.raises(ToolError, match="ServerDisconnectedError"):
            await get(client, f"http://{host}/")
        await client.close()
    assert asked == (1 if is_service else 2)
