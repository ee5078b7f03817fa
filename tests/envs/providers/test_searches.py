"""Every search service over real loopback HTTP: what it finds, and every fault it may have."""

import time
from dataclasses import replace

import pytest

from core.errors import ToolError
from envs.fake_web.faults import Fault
from envs.images import decode_rgb
from envs.nano.flags import draw
from envs.nano.world import World
from tests.fakes.images import MemoryImageStore
from tests.fakes.providers import PRICE_USD, QUICK, SEARCHES, Asked, limits_for

every_search = pytest.mark.parametrize("name", SEARCHES)
HOSTILE = 'a&api_key=x#y?z="%00\\r\\n: <b>\u202e/../ é'


@every_search
async def test_pages_are_found_with_title_address_and_text(
    name: str, asked: Asked, world: World
) -> None:
    country = world.countries[0]

    found = await asked.search(name).search(country.name, k=2)

    assert found.value[0].title == country.name
    assert f"founded {country.year}" in found.value[0].snippet
    assert found.value[0].url.startswith(f"{asked.address}/page/p")
    assert len(found.value) <= 2
    assert (found.provider, found.upstream_calls) == (name, 1)
    assert found.cost_usd == pytest.approx(PRICE_USD)


@every_search
async def test_images_are_found_downloaded_and_kept(
    name: str, asked: Asked, world: World, store: MemoryImageStore
) -> None:
    country = world.countries[0]

    found = await asked.images(name).image_search(f"flag {country.name}", k=3)

    pixels = {decode_rgb(store.get(image.ref)).tobytes() for image in found.value}
    assert len(found.value) == len(pixels) == 3
    assert draw(country.flag).tobytes() in pixels
    assert any(country.name in image.title for image in found.value)
    if name != "tavily":  # whose images say no page
        assert all(image.page_url.startswith(asked.address) for image in found.value)


@every_search
async def test_nothing_found_is_no_error(name: str, asked: Asked) -> None:
    assert (await asked.search(name).search("xyzzy", k=3)).value == ()
    assert (await asked.images(name).image_search("xyzzy", k=3)).value == ()


@every_search
async def test_what_the_policy_wrote_stays_a_query(name: str, asked: Asked, world: World) -> None:
    """Whatever it holds, it is neither another parameter nor a header nor a path."""
    found = await asked.search(name).search(f"{world.countries[0].name} {HOSTILE}", k=1)

    assert found.value[0].title == world.countries[0].name
    assert asked.fake.calls[name] == 1


@every_search
async def test_null_lists_are_empty(name: str, asked: Asked) -> None:
    asked.fake.faults[name] = Fault(kind="null_lists")

    assert (await asked.search(name).search("flag", k=3)).value == ()
    assert (await asked.images(name).image_search("flag", k=3)).value == ()


@every_search
@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=429, times=1),
        Fault(kind="status", status=500, times=2),
        Fault(kind="status", status=503, times=1),
        Fault(kind="truncated", times=2),
        Fault(kind="wrong_type", times=1),
        Fault(kind="slow_headers", times=1),
        Fault(kind="slow_body", times=1),
        Fault(kind="reset", times=1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
async def test_a_fault_that_passes_is_outlived(
    name: str, fault: Fault, asked: Asked, world: World
) -> None:
    asked.fake.faults[name] = fault

    found = await asked.search(name, limits=limits_for(fault)).search(world.countries[0].name, k=1)

    assert found.value[0].title == world.countries[0].name
    assert asked.fake.calls[name] == 1 + (fault.times or 0)


@every_search
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="status", status=429), "answered HTTP 429: fault 429"),
        (Fault(kind="status", status=503), "answered HTTP 503: fault 503"),
        (Fault(kind="truncated"), "no whole JSON"),
        (Fault(kind="wrong_type"), "no whole JSON"),
        (Fault(kind="slow_headers"), "did not answer in"),
        (Fault(kind="slow_body"), "did not answer in"),
        (Fault(kind="reset"), "127.0.0.1: "),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
async def test_a_fault_that_stays_is_an_error_after_three_tries(
    name: str, fault: Fault, said: str, asked: Asked
) -> None:
    asked.fake.faults[name] = fault

    with pytest.raises(ToolError, match=said) as caught:
        await asked.search(name, limits=limits_for(fault, timeout_s=0.2)).search("flag", k=1)
    assert caught.value.retryable
    # aiohttp itself repeats a GET once when a connection that it kept breaks, and on a busy machine
    # so short a time may be over before the service has seen the request.
    fewest = 1 if fault.kind.startswith("slow") else QUICK.max_tries
    most = QUICK.max_tries * (2 if fault.kind == "reset" else 1)
    assert fewest <= asked.fake.calls[name] <= most


@every_search
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="error_body"), "Not enough credits"),
        (Fault(kind="status", status=400), "answered HTTP 400"),
        (Fault(kind="huge_body"), "longer than"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
async def test_what_cannot_get_better_is_an_error_at_once(
    name: str, fault: Fault, said: str, asked: Asked
) -> None:
    asked.fake.faults[name] = fault

    with pytest.raises(ToolError, match=said) as caught:
        await asked.search(name).search("flag", k=1)
    assert not caught.value.retryable
    assert asked.fake.calls[name] == 1
    with pytest.raises(ToolError, match=said):
        await asked.images(name).image_search("flag", k=1)


@every_search
async def test_redirects_end(name: str, asked: Asked, world: World) -> None:
    """A GET is sent on, a few times; a POST is not."""
    asked.fake.faults[name] = Fault(kind="redirect_loop")
    with pytest.raises(ToolError, match=r"redirects|HTTP 302"):
        await asked.search(name).search("flag", k=1)
    assert asked.fake.calls[name] <= 10

    asked.fake.faults[name] = Fault(kind="redirect")
    if name in ("serper", "tavily"):
        with pytest.raises(ToolError, match="HTTP 302"):
            await asked.search(name).search("flag", k=1)
    else:
        found = await asked.search(name).search(world.countries[0].name, k=1)
        assert found.value[0].title == world.countries[0].name


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "searxng"])
async def test_a_wrong_key_is_an_error_that_does_not_show_it(name: str, asked: Asked) -> None:
    with pytest.raises(ToolError, match=r"HTTP 40[13]|HTTP 422") as caught:
        await asked.search(name, key="mistyped-secret").search("flag", k=1)
    assert not caught.value.retryable
    assert "mistyped" not in repr(caught.value)
    assert asked.fake.calls[name] == 1


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_waited_for(as_date: bool, asked: Asked) -> None:
    wait_s = 2.0 if as_date else 0.3  # dates have whole seconds
    asked.fake.faults["serper"] = Fault(
        kind="status", status=429, times=1, retry_after_s=wait_s, as_date=as_date
    )
    started = time.monotonic()

    await asked.search("serper").search("flag", k=1)

    assert time.monotonic() - started >= wait_s - 1.0 * as_date


async def test_a_service_that_is_slow_as_a_whole_is_given_up_at_the_deadline(asked: Asked) -> None:
    asked.fake.faults["brave"] = Fault(kind="slow_headers")

    with pytest.raises(ToolError, match=r"brave gave no answer within 0\.3 s"):
        await asked.search("brave", limits=replace(QUICK, deadline_s=0.3)).search("q", k=1)


async def test_brave_is_given_no_longer_query_than_it_takes(asked: Asked, world: World) -> None:
    query = f"{world.countries[0].name} " + "w " * 300

    assert (await asked.search("brave").search(query, k=1)).value != ()


async def test_searxng_whose_engines_are_silent_is_no_empty_result(
    asked: Asked, world: World
) -> None:
    asked.fake.silent_engines = [["google", "CAPTCHA"], ["brave", "timeout"]]
    try:
        with pytest.raises(ToolError, match="no answer from google CAPTCHA, brave timeout"):
            await asked.search("searxng").search("xyzzy", k=1)
        found = await asked.search("searxng").search(world.countries[0].name, k=1)
        assert found.value != ()
    finally:
        asked.fake.silent_engines = []
