"""The search actor on a real local Ray: shared cache, restarts, and a deadline when it is gone."""

import asyncio
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.search import (
    SearchClient,
    specs_of,
    start_search_actors,
    stop_search_actors,
)
from core.errors import ConfigError, InfraError
from core.records import RolloutId, ToolCall, ToolResult
from envs.corpus import Corpus, build_corpus
from envs.provider import Page
from envs.store.library import Library
from envs.store.store import Store
from envs.toolbox import UNAVAILABLE, LocalToolbox
from envs.tools import SearchTool
from tests.builders import make_rollout_id
from tests.fakes.images import MemoryImageStore
from tests.waiting import until_dead

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

TORVI = "[p1] Torvi: founded 47."


def open_toolbox(folder: Path) -> LocalToolbox:
    corpus = Corpus(folder / "corpus.sqlite")
    library = Library(Store(folder / "store"))
    return LocalToolbox([SearchTool(library.search(corpus), top_k=3)], library)


class FullStore(LocalToolbox):
    async def call(self, call: ToolCall, *, rollout_id: RolloutId) -> ToolResult:
        raise InfraError("the image store is full", retryable=False)


def open_full_store(folder: Path) -> LocalToolbox:
    return FullStore([], Library(Store(folder / "store")))


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[Any]:
    pages = [Page(url="p1", title="Torvi", text="founded 47.")]
    build_corpus(tmp_path / "corpus.sqlite", pages=pages, images=[], store=MemoryImageStore())
    (actor,) = start_search_actors(functools.partial(open_toolbox, tmp_path), num_cpus=0.1)
    yield actor
    ray.kill(actor)


async def search(client: SearchClient, *queries: str) -> ToolResult:
    call = ToolCall(name="search", arguments=json.dumps({"queries": queries}))
    return await client.call(call, rollout_id=make_rollout_id())


async def test_callers_share_one_cache(handle: Any) -> None:
    results = await asyncio.gather(*(search(SearchClient([handle]), "Torvi") for _ in range(20)))
    assert {result.text for result in results} == {TORVI}
    counters = await SearchClient([handle]).counters()
    assert (counters.calls, counters.fetches) == (20, 1)
    assert counters.hits + counters.coalesced == 19
    assert (counters.errors, counters.in_flight) == (0, 0)


def test_what_the_user_can_mend_comes_out_as_it_went_in(tmp_path: Path) -> None:
    (actor,) = start_search_actors(functools.partial(open_toolbox, tmp_path), num_cpus=0.1)
    with pytest.raises(ConfigError, match="there is no corpus at"):
        specs_of(actor)
    ray.kill(actor)


async def test_actors_that_share_a_store_fetch_nothing_twice(tmp_path: Path) -> None:
    pages = [Page(url="p1", title="Torvi", text="founded 47.")]
    build_corpus(tmp_path / "corpus.sqlite", pages=pages, images=[], store=MemoryImageStore())
    handles = start_search_actors(functools.partial(open_toolbox, tmp_path), number=2, num_cpus=0.1)
    client = SearchClient(handles)
    spelled = [f'{{"queries": ["Torvi"]{" " * n}}}' for n in range(16)]
    calls = [ToolCall(name="search", arguments=text) for text in spelled]
    results = await asyncio.gather(
        *(client.call(call, rollout_id=make_rollout_id()) for call in calls)
    )
    assert {result.text for result in results} == {TORVI}
    each = [await SearchClient([handle]).counters() for handle in handles]
    counters = await client.counters()
    assert (counters.calls, counters.fetches) == (16, 1), each
    for handle in handles:
        ray.kill(handle)


async def test_a_killed_actor_comes_back_with_its_cache(handle: Any, tmp_path: Path) -> None:
    client = SearchClient([handle])
    await search(client, "Torvi")
    ray.kill(handle, no_restart=False)
    calls = [search(client, "Torvi", f"word{number}") for number in range(50)]
    results = await asyncio.gather(search(client, "Torvi"), *calls)
    assert {result.text for result in results} == {TORVI}
    assert [result.error for result in results] == [None] * 51
    assert results[0].cached, "fetched before the kill"
    kept = Store(tmp_path / "store").rows("SELECT count(*) FROM entries")
    assert kept == [(51,)], "nothing that was answered is lost"


async def test_an_actor_that_is_stopped_has_written_down_what_it_counted(
    handle: Any, tmp_path: Path
) -> None:
    await search(SearchClient([handle]), "Torvi")
    stop_search_actors([handle])
    assert Store(tmp_path / "store").tallies("run/0")["calls"] == 1
    stop_search_actors([handle])


async def test_an_actor_that_is_gone_is_an_error_within_the_deadline(handle: Any) -> None:
    client = SearchClient([handle], deadline_s=1.5)
    ray.kill(handle, no_restart=True)
    await until_dead(handle.counters)
    result = await asyncio.wait_for(search(client, "Torvi"), timeout=60)
    assert result.text == UNAVAILABLE
    assert result.error is not None
    assert "the search actor was not reached in 2 s: ActorDiedError" in result.error
    with pytest.raises(InfraError, match="not reached"):
        await client.counters()


async def test_an_error_of_the_toolbox_comes_out_as_it_went_in(tmp_path: Path) -> None:
    (full,) = start_search_actors(functools.partial(open_full_store, tmp_path), num_cpus=0.1)
    with pytest.raises(InfraError, match="full") as caught:
        await search(SearchClient([full]), "Torvi")
    assert type(caught.value) is InfraError
    assert not caught.value.retryable
    ray.kill(full)
