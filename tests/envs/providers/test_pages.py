"""The readers of pages over real loopback HTTP: what they read, and every fault there may be."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.errors import ToolError
from core.protocols import HttpResponse
from envs.fake_web.faults import Fault
from envs.http import AiohttpClient
from envs.nano.world import World
from envs.provider import Page
from envs.providers.html import decode_text, is_html, is_text, page_of_html
from tests.fakes.http import MemoryHttp
from tests.fakes.providers import PRICE_USD, QUICK, Asked, limits_for

ARTICLE = """<!DOCTYPE html><html><head><title>Torvi &amp; its flag</title>
<script>steal()</script></head><body><nav><a href="/">Home</a> <a href="/x">Menu</a></nav>
<article><h1>Torvi</h1><h2>History</h2><p>Torvi was founded in the year 47 by settlers from the
northern coast, who raised its first flag on the day of the harvest and kept it ever since.</p>
<ul><li>The field is red as the clay of the coast.</li><li>The band is white.</li></ul>
<p>The festival of Zorvia is held in its capital every spring, with music on all the squares.</p>
</article><footer>imprint</footer></body></html>"""


@dataclass
class Site:
    """A web site of one page, as the test says."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    address: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.calls += 1
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site, app = Site(), web.Application()
    app.router.add_get("/", site.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield site
    await runner.cleanup()


def address_of(asked: Asked, world: World, number: int = 0) -> tuple[str, Page]:
    page = world.pages()[number]
    return f"{asked.address}/page/{page.url}", Page(
        url=f"{asked.address}/page/{page.url}", title=page.title, text=page.text
    )


async def test_jina_reads_a_page_as_json(asked: Asked, world: World) -> None:
    url, page = address_of(asked, world)

    found = await asked.jina().page(url)

    assert found.value == page
    assert (found.provider, found.upstream_calls) == ("jina", 1)
    assert 0 < found.cost_usd < PRICE_USD / 1e3, "priced by the million tokens"
    assert (await asked.jina(key="").page(url)).value == page


async def test_jina_reads_the_plain_form_too(asked: Asked, world: World) -> None:
    url, page = address_of(asked, world)
    asked.fake.jina_is_plain = True

    try:
        assert (await asked.jina().page(url)).value == page
    finally:
        asked.fake.jina_is_plain = False


async def test_fetch_reads_a_page_itself(asked: Asked, world: World) -> None:
    url, page = address_of(asked, world)

    found = await asked.fetch().page(url)

    assert found.value == page
    assert (found.provider, found.upstream_calls, found.cost_usd) == ("fetch", 1, 0.0)


@pytest.mark.parametrize("reader", ["jina", "fetch"])
@pytest.mark.parametrize(
    "url",
    [
        *("", "p0012", "file:///etc/passwd", "ftp://a.test", "javascript:alert(1)", "//a.test"),
        *("http://", "https://u:p@a.test/", "https://a.test/ b", "https://a.test/\nX: y"),
        "http://[::1",
    ],
)
async def test_what_is_no_web_page_is_never_asked_for(reader: str, url: str, asked: Asked) -> None:
    found = await getattr(asked, reader)().page(url)

    assert (found.value, found.upstream_calls) == (None, 0)
    assert not asked.fake.calls


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://0x7f.1/"]
)
async def test_a_reader_of_our_own_is_not_sent_into_our_own_network(url: str, asked: Asked) -> None:
    assert (await asked.jina().page(url)).value is None
    assert [name.partition("/")[0] for name in asked.counted] == ["refused"]
    assert not asked.fake.calls


@pytest.mark.parametrize("reader", ["jina", "fetch"])
async def test_a_page_that_is_not_there_is_none(reader: str, asked: Asked) -> None:
    assert (await getattr(asked, reader)().page(f"{asked.address}/page/p9999")).value is None


JINA_FAULTS = [
    (Fault(kind="status", status=429), "HTTP 429"),
    (Fault(kind="status", status=503), "HTTP 503"),
    (Fault(kind="truncated"), "no whole JSON"),
    (Fault(kind="wrong_type"), "no whole JSON"),
    (Fault(kind="error_body"), "Not enough credits"),
    (Fault(kind="slow_headers"), "did not answer in"),
    (Fault(kind="slow_body"), "did not answer in"),
    (Fault(kind="huge_body"), "longer than"),
    (Fault(kind="redirect_loop"), "HTTP 302"),
    (Fault(kind="reset"), "127.0.0.1: "),
]


@pytest.mark.parametrize(("fault", "said"), JINA_FAULTS, ids=[f.kind for f, _ in JINA_FAULTS])
async def test_a_reader_that_is_down_is_an_error(
    fault: Fault, said: str, asked: Asked, world: World
) -> None:
    asked.fake.faults["jina"] = fault

    with pytest.raises(ToolError, match=said):
        await asked.jina(limits=limits_for(fault)).page(address_of(asked, world)[0])


async def test_a_reader_that_wants_another_key_is_an_error(asked: Asked, world: World) -> None:
    with pytest.raises(ToolError, match=r"jina answered HTTP 401: Invalid API key") as caught:
        await asked.jina(key="mistyped-secret").page(address_of(asked, world)[0])
    assert "mistyped" not in repr(caught.value)


PAGE_FAULTS: list[Fault] = [
    Fault(kind="status", status=403),
    Fault(kind="status", status=429, retry_after_s=60),
    Fault(kind="status", status=503),
    Fault(kind="wrong_type"),
    Fault(kind="huge_body"),
    Fault(kind="redirect_loop"),
]


@pytest.mark.parametrize("fault", PAGE_FAULTS, ids=lambda fault: f"{fault.kind}-{fault.status}")
async def test_a_site_that_answers_badly_has_no_such_page(
    fault: Fault, asked: Asked, world: World
) -> None:
    """It is the page's fault, so no episode fails for it, and no other page has to wait."""
    asked.fake.faults["page"] = fault

    assert (await asked.fetch().page(address_of(asked, world)[0])).value is None


@pytest.mark.parametrize("kind", ["slow_headers", "slow_body", "reset"])
async def test_a_site_that_does_not_answer_is_an_error(
    kind: str, asked: Asked, world: World
) -> None:
    fault = asked.fake.faults["page"] = Fault(kind=kind)  # type: ignore[arg-type]

    with pytest.raises(ToolError):
        await asked.fetch(limits=limits_for(fault)).page(address_of(asked, world)[0])


@pytest.mark.parametrize("kind", ["slow_headers", "slow_body", "reset"])
async def test_a_site_that_is_silent_while_others_answer_has_no_such_page(
    kind: str, asked: Asked, world: World, site: Site
) -> None:
    site.body, site.headers = b"# Torvi", {"Content-Type": "text/plain"}
    fault = Fault(kind=kind)  # type: ignore[arg-type]
    reader = asked.fetch(limits=limits_for(fault))
    assert (await reader.page(site.address)).value is not None
    asked.fake.faults["page"] = fault

    assert (await reader.page(address_of(asked, world)[0])).value is None


async def test_a_page_that_was_not_asked_for_in_time_is_our_fault(asked: Asked, site: Site) -> None:
    site.body, site.headers = b"# Torvi", {"Content-Type": "text/plain"}
    reader = asked.fetch(limits=replace(QUICK, per_second=0.1, deadline_s=0.5))
    assert (await reader.page(site.address)).value is not None

    with pytest.raises(ToolError, match="no answer within"):
        await reader.page(site.address)


async def test_a_site_that_recovers_is_read(asked: Asked, world: World) -> None:
    url, page = address_of(asked, world)
    asked.fake.faults["page"] = Fault(kind="status", times=2)

    assert (await asked.fetch().page(url)).value == page
    asked.fake.faults["page"] = Fault(kind="redirect")
    assert (await asked.fetch().page(url)).value == page


async def test_the_guard_holds_for_addresses_that_the_policy_names(asked: Asked) -> None:
    guarded = AiohttpClient()

    found = await asked.fetch(http=guarded).page(f"{asked.address}/page/p0000")

    await guarded.close()
    assert (found.value, found.upstream_calls) == (None, 0)
    assert asked.counted == ["refused/address"]
    assert not asked.fake.calls


async def test_a_page_that_leads_to_a_refused_address_was_asked_for(
    asked: Asked, site: Site
) -> None:
    site.status, site.headers = 302, {"Location": "http://169.254.169.254/"}
    guarded = AiohttpClient(allow=[site.address.removeprefix("http://").rstrip("/")])

    found = await asked.fetch(http=guarded).page(site.address)

    await guarded.close()
    assert (found.value, found.upstream_calls, asked.counted) == (None, 1, [])
    assert guarded.refusals == {"address": 1}


@pytest.mark.parametrize(
    ("said", "is_down"),
    [
        ("Name or service not known", False),
        ("Temporary failure in name resolution", True),
    ],
)
async def test_a_host_that_does_not_exist_has_no_pages(
    said: str, is_down: bool, asked: Asked
) -> None:
    url = "http://made-up.test/"

    def handler(*_: object) -> HttpResponse:
        raise ToolError(f"made-up.test: ClientConnectorDNSError: [{said}]")

    reader = asked.fetch(http=MemoryHttp(handler))
    if is_down:
        with pytest.raises(ToolError, match=said):
            await reader.page(url)
    else:
        assert (await reader.page(url)).value is None


async def test_html_becomes_markdown_without_its_frame(asked: Asked, site: Site) -> None:
    site.body, site.headers = ARTICLE.encode(), {"Content-Type": "text/html; charset=utf-8"}

    page = (await asked.fetch().page(site.address)).value

    assert page is not None
    assert page.title == "Torvi & its flag"
    assert "## History" in page.text
    assert "- The band is white." in page.text
    assert not any(word in page.text for word in ("steal", "Menu", "imprint", "<"))


@pytest.mark.parametrize("kind", ["text/plain", "text/markdown; charset=utf-8", "application/json"])
async def test_text_stays_as_it_is(kind: str, asked: Asked, site: Site) -> None:
    site.body, site.headers = b"# Torvi\n\nfounded 47 <b>\n", {"Content-Type": kind}

    page = (await asked.fetch().page(site.address)).value

    assert page == Page(url=site.address, title="", text="# Torvi\n\nfounded 47 <b>\n")


@pytest.mark.parametrize("kind", ["application/pdf", "image/png", "application/octet-stream"])
async def test_what_is_no_text_is_no_page(kind: str, asked: Asked, site: Site) -> None:
    site.body, site.headers = b"%PDF-1.7 Torvi", {"Content-Type": kind}

    assert (await asked.fetch().page(site.address)).value is None
    assert site.calls == 1


WORD = "Zürich, «Œuvre»"
CHARSETS = MappingProxyType(
    {
        "header": (WORD.encode("cp1252"), "text/html; charset=windows-1252"),
        "quoted": (WORD.encode(), 'text/html; charset="utf-8"'),
        "meta": (b"<meta charset=iso-8859-15>" + WORD.encode("iso-8859-15"), "text/html"),
        "bom": (b"\xef\xbb\xbf" + WORD.encode(), "text/html; charset=latin-1"),
        "utf-16": (b"\xff\xfe" + WORD.encode("utf-16-le"), "text/plain"),
        "none": (WORD.encode(), "text/plain"),
        "wrong": (WORD.encode("cp1252"), "text/plain"),
        "unknown": (WORD.encode(), "text/plain; charset=klingon"),
        "no encoding": (WORD.encode(), "text/plain; charset=rot13"),
        "slow on purpose": (WORD.encode(), "text/plain; charset=punycode"),
    }
)


@pytest.mark.parametrize("case", CHARSETS)
def test_the_encoding_is_found(case: str) -> None:
    body, kind = CHARSETS[case]

    assert is_text(kind, body)
    assert decode_text(body, kind).endswith(WORD)


@pytest.mark.parametrize(
    ("kind", "body", "text", "html"),
    [
        ("text/html", b"<p>x", True, True),
        ("", b"  <!DOCTYPE html><p>", True, True),
        ("text/plain", b"\n<html><body>", True, True),
        ("text/plain", b"a <html> tag", True, False),
        ("text/html", b"\x89PNG\r\n\x1a\n\0\0", False, True),
        ("image/svg+xml", b"<svg/>", True, False),
        ("application/zip", b"PK", False, False),
    ],
)
def test_what_a_host_calls_its_bytes_is_not_believed(
    kind: str, body: bytes, text: bool, html: bool
) -> None:
    assert is_text(kind, body) is text
    assert is_html(kind, body.decode(errors="replace")) is html


@given(st.binary(max_size=300), st.text(max_size=40))
@example(b"<p>\xe9", "UNDEFINED")
@settings(max_examples=300, deadline=None)
def test_no_bytes_and_no_name_break_the_reading(body: bytes, kind: str) -> None:
    assert isinstance(decode_text(body, f"text/html; charset={kind}"), str)
    assert is_text(kind, body) in (True, False)


_TAGS = st.sampled_from(["<p>", "</p>", "<table>", "<title>", "<!--", "<a href='", "&#0;", "\x00"])


@given(st.lists(_TAGS | st.text(max_size=10), max_size=30).map("".join))
@settings(max_examples=100, deadline=None)
def test_no_html_breaks_the_reading(text: str) -> None:
    title, markdown = page_of_html(text)
    assert isinstance(title + markdown, str)


def test_a_page_that_is_made_to_be_slow_is_not() -> None:
    started = time.process_time()
    for text in ("<title" * 200_000, "<!--" * 200_000, " " * 1_000_000 + "<"):
        is_html("", text)
        page_of_html(text)
    assert time.process_time() - started < 30
