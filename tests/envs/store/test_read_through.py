"""Answers come from the store, from one fetch for all who ask, or not at all, as the mode says."""

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import ToolError
from envs.store.read_through import Ages
from envs.store.store import Store
from envs.store.values import Kind
from tests.fakes.library import Clock, CountedProvider, open_library

ROOT = Path(__file__).resolve().parents[3]
HOUR = 3600.0
AGES = Ages(found=dict.fromkeys(Kind, 10 * HOUR), nothing=HOUR)


async def test_every_kind_comes_back_as_it_was_from_a_reopened_store(tmp_path: Path) -> None:
    first = open_library(tmp_path)
    provider = CountedProvider(first.images)
    hits = await first.search(provider).search("a", k=2)
    images = await first.image_search(provider).image_search("b", k=2)
    page = await first.pages(provider).page("https://a.test/x")
    assert page.value is not None
    summary = await first.summaries(provider).answer(page.value, query="q")
    first.close()

    again = open_library(tmp_path)
    idle = CountedProvider()
    assert (await again.search(idle).search("a", k=2)).value == hits.value
    assert (await again.image_search(idle).image_search("b", k=2)).value == images.value
    assert (await again.pages(idle).page("https://a.test/x")).value == page.value
    kept = await again.summaries(idle).answer(page.value, query="q")
    assert kept.value == summary.value
    assert (kept.cached, kept.upstream_calls, kept.cost_usd) == (True, 0, 0.0)
    assert idle.calls == []


async def test_equal_operations_in_flight_make_one_fetch(tmp_path: Path) -> None:
    library, provider = open_library(tmp_path), CountedProvider()
    provider.gate.clear()
    search = library.search(provider)
    asked = [asyncio.create_task(search.search("a", k=1)) for _ in range(1000)]
    await asyncio.sleep(0.01)
    provider.gate.set()
    found = await asyncio.gather(*asked)
    assert len(provider.calls) == 1
    assert [one.cached for one in found].count(False) == 1
    assert library.tallies.totals()["coalesced"] == 999


async def test_two_stores_on_one_folder_make_one_fetch(tmp_path: Path) -> None:
    """Two processes would be the same: the locks belong to open files."""
    provider = CountedProvider()
    provider.gate.clear()
    searches = [open_library(tmp_path).search(provider) for _ in range(2)]
    asked = [asyncio.create_task(search.search("a", k=1)) for search in searches]
    await asyncio.sleep(0.05)
    provider.gate.set()
    first, second = await asyncio.gather(*asked)
    assert len(provider.calls) == 1
    assert first.value == second.value
    assert {first.cached, second.cached} == {True, False}


async def test_an_owner_that_is_killed_blocks_nobody(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from tests.fakes.library import CountedProvider, open_library
async def main():
    provider = CountedProvider()
    provider.gate.clear()
    asked = asyncio.create_task(open_library(Path(sys.argv[1])).search(provider).search("a", k=1))
    while not provider.calls:
        await asyncio.sleep(0.01)
    print("fetching", flush=True)
    await asked
asyncio.run(main())
"""
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(tmp_path)), stdout=subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"fetching\n"
    provider = CountedProvider()
    asked = asyncio.create_task(open_library(tmp_path).search(provider).search("a", k=1))
    await asyncio.sleep(0.1)
    assert provider.calls == [], "the other process is fetching it"
    owner.kill()
    await owner.wait()
    assert len((await asyncio.wait_for(asked, timeout=60)).value) == 1
    assert len(provider.calls) == 1


async def test_a_caller_that_gives_up_does_not_stop_the_fetch(tmp_path: Path) -> None:
    library, provider = open_library(tmp_path), CountedProvider()
    provider.gate.clear()
    search = library.search(provider)
    first = asyncio.create_task(search.search("a", k=1))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(search.search("a", k=1))
    await asyncio.sleep(0.01)
    first.cancel()
    provider.gate.set()
    assert len((await second).value) == 1
    assert len(provider.calls) == 1


async def test_answers_age_and_nothing_ages_faster(tmp_path: Path) -> None:
    clock, provider = Clock(), CountedProvider()
    search = open_library(tmp_path, clock=clock, ages=AGES).search(provider)

    async def ask() -> int:
        provider.calls.clear()
        await search.search("a", k=1)
        await search.search("none", k=1)
        return len(provider.calls)

    assert [await ask(), await ask()] == [2, 0]
    clock.now_s += HOUR
    assert [await ask(), await ask()] == [1, 0]
    clock.now_s += 9 * HOUR
    assert await ask() == 2


async def test_nothing_ages_in_a_recording(tmp_path: Path) -> None:
    clock, provider = Clock(), CountedProvider()
    search = open_library(tmp_path, clock=clock, ages=AGES, mode="record").search(provider)
    await search.search("a", k=1)
    clock.now_s += 1000 * HOUR
    await search.search("a", k=1)
    assert len(provider.calls) == 1


@pytest.mark.parametrize("harm", ["change", "remove"])
async def test_a_damaged_file_is_fetched_again_and_repaired(tmp_path: Path, harm: str) -> None:
    library = open_library(tmp_path)
    provider = CountedProvider(library.images)
    page = await library.pages(provider).page("u")
    found = await library.image_search(provider).image_search("b", k=1)
    library.close()
    for path in [*tmp_path.glob("texts/??/*"), *tmp_path.glob("images/??/*")]:
        path.write_bytes(b"rot") if harm == "change" else path.unlink()

    library = open_library(tmp_path)
    provider = CountedProvider(library.images)
    assert (await library.pages(provider).page("u")).value == page.value
    assert (await library.image_search(provider).image_search("b", k=1)).value == found.value
    assert len(provider.calls) == 2
    assert library.images.get(found.value[0].ref)
    assert library.tallies.totals()["damaged"] == 2
    library.close()
    idle = CountedProvider()
    assert (await open_library(tmp_path).pages(idle).page("u")).value == page.value


async def test_a_failure_reaches_all_who_wait_and_is_not_kept(tmp_path: Path) -> None:
    library, provider = open_library(tmp_path), CountedProvider()
    provider.error = ToolError("HTTP 503 from it", error_type="HTTP 503")
    search = library.search(provider)
    failed = await asyncio.gather(
        *(search.search("a", k=1) for _ in range(5)), return_exceptions=True
    )
    assert [str(one) for one in failed] == ["HTTP 503 from it"] * 5
    provider.error = None
    assert len((await search.search("a", k=1)).value) == 1
    assert library.tallies.totals()["failures/HTTP 503"] == 1


async def test_a_slow_fetch_ends(tmp_path: Path) -> None:
    provider = CountedProvider()
    provider.gate.clear()
    search = open_library(tmp_path, timeout_s=0.05).search(provider)
    with pytest.raises(ToolError, match=r"no answer within 0\.05 s"):
        await search.search("a", k=1)


async def record(folder: Path) -> CountedProvider:
    library = open_library(folder, mode="record")
    provider = CountedProvider(library.images)
    search = library.search(provider)
    await search.search("flag of Torvi", k=2)
    await search.search("none", k=2)
    await library.pages(provider).page("none")
    provider.error = ToolError("HTTP 500 from it", error_type="HTTP 500")
    with pytest.raises(ToolError):
        await search.search("broken", k=2)
    with pytest.raises(ToolError):
        await search.search("mended", k=2)
    provider.error = None
    await search.search("mended", k=2)
    library.close()
    return provider


async def test_a_replay_gives_what_was_recorded_failures_too(tmp_path: Path) -> None:
    await record(tmp_path)
    library = open_library(tmp_path, mode="replay")
    search = library.search(None)
    assert [hit.title for hit in (await search.search("flag of Torvi", k=2)).value] == [
        "flag of Torvi"
    ] * 2
    assert (await search.search("none", k=2)).value == ()
    assert (await library.pages(None).page("none")).value is None
    with pytest.raises(ToolError, match="HTTP 500 from it") as caught:
        await search.search("broken", k=2)
    assert (caught.value.retryable, caught.value.error_type) == (False, "HTTP 500")
    assert len((await search.search("mended", k=2)).value) == 2


async def test_a_failure_of_other_providers_does_not_hide_a_recorded_answer(
    tmp_path: Path,
) -> None:
    clock = Clock()
    for version, error in (("counted-1", None), ("counted-2", ToolError("it is down"))):
        library = open_library(tmp_path, clock=clock, mode="record", session=f"{version}/0")
        provider = CountedProvider()
        provider.version, provider.error = version, error
        with contextlib.suppress(ToolError):
            await library.search(provider).search("a", k=1)
        clock.now_s += HOUR
    replayed = open_library(tmp_path, mode="replay").search(None)
    assert len((await replayed.search("a", k=1)).value) == 1


async def test_a_replay_says_what_was_not_recorded(tmp_path: Path) -> None:
    await record(tmp_path)
    library = open_library(tmp_path, mode="replay", on_miss="fail")
    with pytest.raises(ToolError, match="search 'new' was not recorded") as caught:
        await library.search(None).search("new", k=2)
    assert not caught.value.retryable
    assert library.tallies.totals()["misses/fail"] == 1


async def test_a_replay_may_find_nothing_or_the_nearest_query(tmp_path: Path) -> None:
    await record(tmp_path)
    empty = open_library(tmp_path, mode="replay", on_miss="empty", session="e/0")
    assert (await empty.search(None).search("flag", k=2)).value == ()
    nearest = open_library(tmp_path, mode="replay", on_miss="nearest", session="n/0")
    search = nearest.search(None)
    for _ in range(2):
        found = await search.search("Torvi's flag", k=1)
        assert [hit.title for hit in found.value] == ["flag of Torvi"]
        assert found.stand_in == "flag of Torvi"
    assert await search.search("unheard", k=1) == await search.search("unheard", k=1)
    assert (await search.search("unheard", k=1)).value == ()
    assert empty.tallies.totals()["misses/empty"] == 1
    assert nearest.tallies.totals()["misses/nearest"] == 5


async def test_a_summary_never_stands_in_for_another_page(tmp_path: Path) -> None:
    library, provider = open_library(tmp_path, mode="record"), CountedProvider()
    first = (await library.pages(provider).page("a")).value
    other = (await library.pages(provider).page("b")).value
    assert first is not None
    assert other is not None
    await library.summaries(provider).answer(first, query="when founded")
    library.close()
    summaries = open_library(tmp_path, mode="replay", on_miss="nearest").summaries(None)
    assert (await summaries.answer(first, query="founded in")).value.startswith("when founded")
    assert (await summaries.answer(other, query="founded in")).value == ""


async def test_a_replay_refuses_a_damaged_file(tmp_path: Path) -> None:
    library, provider = open_library(tmp_path, mode="record"), CountedProvider()
    await library.pages(provider).page("u")
    library.close()
    for path in tmp_path.glob("texts/??/*"):
        path.unlink()
    with pytest.raises(ToolError, match=r"page 'u'.*missing or has changed"):
        await open_library(tmp_path, mode="replay").pages(None).page("u")


async def test_counts_of_a_session_survive_the_process(tmp_path: Path) -> None:
    for _ in range(2):
        library = open_library(tmp_path, session="run/x")
        provider = CountedProvider()
        provider.pay = library.tallies.pay
        await library.search(provider).search(f"a{time.time()}", k=1)
        library.close()
    totals = Store(tmp_path).tallies("run/x")
    assert (totals["fetches"], totals["dollars/counted"]) == (2, 0.5)
