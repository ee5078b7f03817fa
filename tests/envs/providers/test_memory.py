"""Serper, Jina and image downloads over an in-memory network: what goes out, what counts."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from core.endpoint import Endpoint, Limits
from core.errors import ToolError
from core.protocols import HttpResponse
from envs.guard import Guard
from envs.images import clean_image
from envs.provider import Page, SearchHit
from envs.providers import downloads
from envs.providers.downloads import DownloadLimits, ImageDownloader, WebImages
from envs.providers.jina import Jina
from envs.providers.searxng import Searxng
from envs.providers.serper import Serper
from envs.providers.service import Service
from tests.builders import png_bytes
from tests.fakes.http import MemoryHttp
from tests.fakes.images import MemoryImageStore

SEARCH_URL = "https://google.serper.dev/search"
IMAGES_URL = "https://google.serper.dev/images"
READER_URL = "https://r.jina.ai/"
ORGANIC = [
    {"title": "Torvi", "link": "https://a.test/1", "snippet": "founded 47", "position": 1},
    {"title": None, "link": "https://a.test/2", "date": "Mar 1, 2026"},
]
LIMITS = Limits(
    per_second=1e6,
    max_in_flight=8,
    timeout_s=1.0,
    deadline_s=5.0,
    max_tries=3,
    first_pause_s=0.001,
)
JINA = {"code": 200, "status": 20000, "data": {"title": "T", "url": "u", "content": "# Torvi"}}


def reply(body: Any, *, status: int = 200, **headers: str) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status=status, headers=headers, body=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    http: MemoryHttp
    store: MemoryImageStore
    serper: Serper
    images: WebImages
    jina: Jina
    counted: list[str]
    paid: list[tuple[str, float]]


def make_world(
    handler: Callable[[str, str, Any], HttpResponse],
    *,
    fail_times: dict[Hashable, int] | None = None,
    jina_key: str = "",
    deadline_s: float = 5.0,
) -> World:
    http, store = MemoryHttp(handler, fail_times=fail_times), MemoryImageStore()
    paid: list[tuple[str, float]] = []

    def service(name: str, base_url: str, key: str, cost_usd: float) -> Service:
        return Service(
            name=name,
            endpoint=Endpoint(http, name=name, limits=LIMITS),
            base_url=base_url,
            api_key=key,
            cost_usd=cost_usd,
            pay=lambda provider, usd: paid.append((provider, usd)),
        )

    serper = Serper(service("serper", "https://google.serper.dev", "serper-secret", 0.001))
    counted: list[str] = []
    limits_of_images = DownloadLimits(deadline_s=deadline_s)
    downloader = ImageDownloader(http, store, limits=limits_of_images, count=counted.append)
    return World(
        http=http,
        store=store,
        serper=serper,
        images=WebImages(serper, downloader),
        jina=Jina(service("jina", "https://r.jina.ai", jina_key, 0.05), guard=Guard()),
        counted=counted,
        paid=paid,
    )


async def test_search_reads_organic_results_and_sends_the_key_as_a_header() -> None:
    world = make_world(lambda *_: reply({"organic": ORGANIC, "credits": 1}))
    hits = (await world.serper.search('"Torvi" -x', k=2)).value
    assert hits == (
        SearchHit(url="https://a.test/1", title="Torvi", snippet="founded 47"),
        SearchHit(url="https://a.test/2", title="", snippet=""),
    )
    body = {"q": '"Torvi" -x', "num": 10}
    assert world.http.events == [("POST", SEARCH_URL, {"X-API-KEY": "serper-secret"}, body)]
    assert "secret" not in repr(world.serper._service)


async def test_searxng_results_without_an_address_are_left_out() -> None:
    results = [{"url": None, "title": "a table"}, {"title": "x"}, {"url": "https://a.test/1"}]
    searxng = Searxng(
        Service(
            name="searxng",
            endpoint=Endpoint(
                MemoryHttp(lambda *_: reply({"results": results})), name="searxng", limits=LIMITS
            ),
            base_url="http://searx.test",
        )
    )
    found = await searxng.search("q", k=1)
    assert found.value == (SearchHit(url="https://a.test/1", title="", snippet=""),)


async def test_no_results_are_no_error() -> None:
    for body in (b'{"organic": []}', b'{"organic": null}'):
        world = make_world(lambda *_, body=body: reply(body))
        assert (await world.serper.search("q", k=2)).value == ()


@pytest.mark.parametrize(
    "response",
    [
        reply({"message": "Unauthorized.", "statusCode": 403}, status=403),
        reply({"message": "Not enough credits", "statusCode": 400}, status=400),
        reply({"message": "Not enough credits", "statusCode": 400}),
        reply({"organic": [{"title": "no link"}]}),
    ],
)
async def test_what_cannot_get_better_is_not_asked_again(response: HttpResponse) -> None:
    world = make_world(lambda *_: response)
    with pytest.raises(ToolError) as caught:
        await world.serper.search("q", k=2)
    assert len(world.http.events) == 1
    assert "serper-secret" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_provider_is_asked_again(status: int) -> None:
    responses = [reply(b"busy", status=status), reply({"organic": ORGANIC})]
    world = make_world(lambda *_: responses.pop(0))
    assert len((await world.serper.search("q", k=2)).value) == 2


async def test_a_provider_that_stays_down_is_an_error_after_three_tries() -> None:
    world = make_world(lambda *_: reply(b"down", status=503))
    with pytest.raises(ToolError, match=r"serper answered HTTP 503: down"):
        await world.serper.search("q", k=2)
    assert len(world.http.events) == 3


async def test_a_network_fault_is_retried_too() -> None:
    world = make_world(lambda *_: reply({"organic": []}), fail_times={SEARCH_URL: 2})
    assert (await world.serper.search("q", k=2)).value == ()
    assert len(world.http.events) == 3


async def test_a_reply_that_is_cut_is_asked_for_again() -> None:
    responses = [reply(b'{"organic": [{"title": "cut o'), reply({"organic": ORGANIC})]
    world = make_world(lambda *_: responses.pop(0))
    assert len((await world.serper.search("q", k=2)).value) == 2


async def test_what_a_search_took_is_what_the_reply_says() -> None:
    world = make_world(lambda *_: reply({"organic": [], "credits": 2}))
    found = await world.serper.search("q", k=2)
    assert (found.provider, found.upstream_calls, found.cost_usd) == ("serper", 1, 0.002)


def image_web(images: dict[str, HttpResponse]) -> Callable[[str, str, Any], HttpResponse]:
    found = [
        {"title": f"title {url}", "imageUrl": url, "link": f"https://page.test/{n}", "position": n}
        for n, url in enumerate(images)
    ]

    def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        return reply({"images": found}) if url == IMAGES_URL else images[url]

    return handler


async def test_few_images_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may unfold to a GiB, and a large machine has many threads."""
    counting, running, most = threading.Lock(), 0, 0

    def slow(data: bytes) -> bytes:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with counting:
            running -= 1
        return data

    monkeypatch.setattr(downloads, "clean_image", slow)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(16))
    pictures = [png_bytes((n, 0, 0), size=(64, 64)) for n in range(16)]
    web = {f"https://i.test/{n}": reply(picture) for n, picture in enumerate(pictures)}
    found = (await make_world(image_web(web)).images.image_search("flag", k=16)).value
    assert len(found) == 16
    assert most == downloads.DECODERS


async def test_bad_images_are_replaced_by_the_next_candidates_in_order() -> None:
    good = [png_bytes((n, 0, 0), size=(64, 64)) for n in range(3)]
    world = make_world(
        image_web(
            {
                "https://i.test/html": reply(b"<html>"),
                "https://i.test/0": reply(good[0]),
                "https://i.test/gone": reply(b"", status=404),
                "https://i.test/icon": reply(png_bytes(size=(16, 16))),
                "https://i.test/huge": reply(b"x" * (17 << 20)),
                "https://i.test/1": reply(good[1]),
                "https://i.test/2": reply(good[2]),
            }
        )
    )
    found = (await world.images.image_search("flag", k=2)).value
    assert [world.store.get(image.ref) for image in found] == [
        clean_image(data) for data in good[:2]
    ]
    assert [image.title for image in found] == ["title https://i.test/0", "title https://i.test/1"]
    assert found[0].page_url == "https://page.test/1"
    skipped = ["HTTP 404", "ToolError", "not an image", "too small"]
    assert sorted(world.counted) == [f"skipped_images/{why}" for why in skipped]
    asked = [event[1] for event in world.http.events]
    assert asked[0] == IMAGES_URL
    assert "https://i.test/2" not in asked
    assert all(event[2] == {} for event in world.http.events[1:]), "no key goes to a stranger"


async def test_fewer_images_than_wanted_are_no_error() -> None:
    world = make_world(image_web({"https://i.test/gone": reply(b"", status=404)}))
    assert (await world.images.image_search("flag", k=3)).value == ()


async def test_images_of_which_no_host_answers_are_an_error_and_not_an_empty_result() -> None:
    web = image_web({"https://i.test/0": reply(b""), "https://i.test/1": reply(b"", status=404)})
    down = {"https://i.test/0", "https://i.test/1"}

    def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        if url in down:
            raise ToolError("i.test did not answer in 10 s")
        return web(method, url, json_body)

    world = make_world(handler)
    with pytest.raises(ToolError, match="did not answer"):
        await world.images.image_search("flag", k=2)
    assert world.paid == [("serper", 0.001)], "the search was answered"
    down.remove("https://i.test/1")
    assert (await world.images.image_search("flag", k=2)).value == ()
    down.add("https://i.test/1")
    assert (await world.images.image_search("flag", k=2)).value == (), "others answered just now"


async def test_a_page_is_read_through_jina_with_the_url_as_data() -> None:
    world = make_world(lambda *_: reply(JINA), jina_key="jina-secret")
    url = "https://a.test/../../x?q=1#part"
    assert (await world.jina.page(url)).value == Page(url=url, title="T", text="# Torvi")
    headers = {"Accept": "application/json", "Authorization": "Bearer jina-secret"}
    assert world.http.events == [("POST", READER_URL, headers, {"url": url})]


@pytest.mark.parametrize(
    "url",
    [
        *("", "p0012", "file:///etc/passwd", "ftp://a.test", "javascript:alert(1)", "//a.test"),
        *("http://", "https://u:p@a.test/", "https://a.test/ b", "https://a.test/\nX: y"),
        "http://[::1",
    ],
)
async def test_what_is_no_web_page_is_never_asked_for(url: str) -> None:
    world = make_world(lambda *_: reply(JINA))
    assert (await world.jina.page(url)).value is None
    assert world.http.events == []


@pytest.mark.parametrize("status", [404, 422, 451])
async def test_a_page_that_cannot_be_read_is_none(status: int) -> None:
    world = make_world(lambda *_: reply(b"no", status=status))
    assert (await world.jina.page("https://a.test/")).value is None
    assert len(world.http.events) == 1


async def test_a_reader_that_wants_a_key_is_an_error() -> None:
    world = make_world(lambda *_: reply(b"no key", status=401))
    with pytest.raises(ToolError, match=r"jina answered HTTP 401: no key"):
        await world.jina.page("https://a.test/")


async def test_at_the_deadline_what_is_there_is_the_result() -> None:
    good = png_bytes(size=(64, 64))

    async def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        if url == IMAGES_URL:
            found = [{"imageUrl": f"https://i.test/{name}"} for name in ("slow", "good", "slower")]
            return reply({"images": found})
        if url != "https://i.test/good":
            await asyncio.sleep(60)
        return reply(good)

    world = make_world(handler, deadline_s=1.0)
    found = (await world.images.image_search("flag", k=2)).value
    assert [world.store.get(image.ref) for image in found] == [clean_image(good)]
