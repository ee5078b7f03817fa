"""The live provider over an in-memory network that speaks Serper's and Jina's shapes."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from core.errors import ToolError
from core.protocols import HttpResponse
from envs.provider import Page, SearchHit
from envs.serper import IMAGES_URL, READER_URL, SEARCH_URL, SerperProvider
from tests.builders import png_bytes
from tests.fakes.http import MemoryHttp
from tests.fakes.images import MemoryImageStore

ORGANIC = [
    {"title": "Torvi", "link": "https://a.test/1", "snippet": "founded 47", "position": 1},
    {"title": None, "link": "https://a.test/2", "date": "Mar 1, 2026"},
]
JINA = {"code": 200, "status": 20000, "data": {"title": "T", "url": "u", "content": "# Torvi"}}


def reply(body: Any, *, status: int = 200, **headers: str) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status=status, headers=headers, body=data)


def make_provider(
    handler: Callable[[str, str, Any], HttpResponse], **changes: Any
) -> tuple[SerperProvider, MemoryHttp, MemoryImageStore]:
    http, store = (
        MemoryHttp(handler, fail_times=changes.pop("fail_times", None)),
        MemoryImageStore(),
    )
    values: dict[str, Any] = {
        "http": http,
        "images": store,
        "serper_key": "serper-secret",
        "pause_s": 0.001,
    }
    return SerperProvider(**(values | changes)), http, store


async def test_search_reads_organic_results_and_sends_the_key_as_a_header() -> None:
    provider, http, _ = make_provider(lambda *_: reply({"organic": ORGANIC, "credits": 1}))
    hits = (await provider.search('"Torvi" -x', k=2)).value
    assert hits == (
        SearchHit(url="https://a.test/1", title="Torvi", snippet="founded 47"),
        SearchHit(url="https://a.test/2", title="", snippet=""),
    )
    body = {"q": '"Torvi" -x', "num": 2}
    assert http.events == [("POST", SEARCH_URL, {"X-API-KEY": "serper-secret"}, body)]
    assert "secret" not in repr(provider)


async def test_no_results_are_no_error() -> None:
    for body in (b'{"organic": []}', b'{"organic": null}'):
        provider, _, _ = make_provider(lambda *_, body=body: reply(body))
        assert (await provider.search("q", k=2)).value == ()


@pytest.mark.parametrize(
    "response",
    [
        reply({"message": "Unauthorized.", "statusCode": 403}, status=403),
        reply({"message": "Not enough credits", "statusCode": 400}, status=400),
        reply({"message": "Not enough credits", "statusCode": 400}),
        reply(b'{"organic": [{"title": "cut o'),
        reply(b"<html>"),
        reply({"organic": [{"title": "no link"}]}),
    ],
)
async def test_what_cannot_get_better_is_not_asked_again(response: HttpResponse) -> None:
    provider, http, _ = make_provider(lambda *_: response)
    with pytest.raises(ToolError) as caught:
        await provider.search("q", k=2)
    assert len(http.events) == 1
    assert "serper-secret" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_provider_is_asked_again(status: int) -> None:
    responses = [reply(b"busy", status=status), reply({"organic": ORGANIC})]
    provider, _, _ = make_provider(lambda *_: responses.pop(0))
    assert len((await provider.search("q", k=2)).value) == 2


async def test_a_provider_that_stays_down_is_an_error_after_three_tries() -> None:
    provider, http, _ = make_provider(lambda *_: reply(b"down", status=503))
    with pytest.raises(ToolError, match=r"google\.serper\.dev answered HTTP 503: down"):
        await provider.search("q", k=2)
    assert len(http.events) == 3


async def test_a_network_fault_is_retried_too() -> None:
    provider, http, _ = make_provider(lambda *_: reply({"organic": []}), fail_times={SEARCH_URL: 2})
    assert (await provider.search("q", k=2)).value == ()
    assert len(http.events) == 3


async def test_retry_after_is_waited_for() -> None:
    responses = [reply(b"", status=429, **{"retry-after": "0.3"}), reply({"organic": []})]
    provider, _, _ = make_provider(lambda *_: responses.pop(0))
    started = time.monotonic()
    await provider.search("q", k=1)
    assert time.monotonic() - started > 0.2


def image_web(images: dict[str, HttpResponse]) -> Callable[[str, str, Any], HttpResponse]:
    found = [
        {"title": f"title {url}", "imageUrl": url, "link": f"https://page.test/{n}", "position": n}
        for n, url in enumerate(images)
    ]

    def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        return reply({"images": found}) if url == IMAGES_URL else images[url]

    return handler


async def test_bad_images_are_replaced_by_the_next_candidates_in_order() -> None:
    good = [png_bytes((n, 0, 0), size=(64, 64)) for n in range(3)]
    provider, http, store = make_provider(
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
    found = (await provider.image_search("flag", k=2)).value
    assert [store.get(image.ref) for image in found] == good[:2]
    assert [image.title for image in found] == ["title https://i.test/0", "title https://i.test/1"]
    assert found[0].page_url == "https://page.test/1"
    asked = [event[1] for event in http.events]
    assert asked[0] == IMAGES_URL
    assert "https://i.test/2" not in asked
    assert all(event[2] == {} for event in http.events[1:]), "no key goes to a stranger"


async def test_fewer_images_than_wanted_are_no_error() -> None:
    provider, _, _ = make_provider(image_web({"https://i.test/gone": reply(b"", status=404)}))
    assert (await provider.image_search("flag", k=3)).value == ()


async def test_images_of_which_no_host_answers_are_an_error_and_not_an_empty_result() -> None:
    web = image_web({"https://i.test/0": reply(b""), "https://i.test/1": reply(b"", status=404)})
    down = {"https://i.test/0", "https://i.test/1"}

    def handler(method: str, url: str, json_body: Any) -> HttpResponse:
        if url in down:
            raise ToolError("i.test did not answer in 10 s")
        return web(method, url, json_body)

    provider, _, _ = make_provider(handler)
    with pytest.raises(ToolError, match="did not answer"):
        await provider.image_search("flag", k=2)
    down.remove("https://i.test/1")
    assert (await provider.image_search("flag", k=2)).value == ()


async def test_a_page_is_read_through_jina_with_the_url_as_data() -> None:
    provider, http, _ = make_provider(lambda *_: reply(JINA), jina_key="jina-secret")
    url = "https://a.test/../../x?q=1#part"
    assert (await provider.page(url)).value == Page(url=url, title="T", text="# Torvi")
    headers = {"Accept": "application/json", "Authorization": "Bearer jina-secret"}
    assert http.events == [("POST", READER_URL, headers, {"url": url})]


@pytest.mark.parametrize(
    "url",
    [
        *("", "p0012", "file:///etc/passwd", "ftp://a.test", "javascript:alert(1)", "//a.test"),
        *("http://", "https://u:p@a.test/", "https://a.test/ b", "https://a.test/\nX: y"),
        "http://[::1",
    ],
)
async def test_what_is_no_web_page_is_never_asked_for(url: str) -> None:
    provider, http, _ = make_provider(lambda *_: reply(JINA))
    assert (await provider.page(url)).value is None
    assert http.events == []


@pytest.mark.parametrize("status", [404, 422, 451])
async def test_a_page_that_cannot_be_read_is_none(status: int) -> None:
    provider, http, _ = make_provider(lambda *_: reply(b"no", status=status))
    assert (await provider.page("https://a.test/")).value is None
    assert len(http.events) == 1


async def test_a_reader_that_wants_a_key_is_an_error() -> None:
    provider, _, _ = make_provider(lambda *_: reply(b"no key", status=401))
    with pytest.raises(ToolError, match=r"r\.jina\.ai answered HTTP 401: no key"):
        await provider.page("https://a.test/")
