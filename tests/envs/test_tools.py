"""What the policy may write to a tool, what it reads back, and what a failing provider does."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InfraError, ToolError
from core.records import FoundImage, ToolCall, ToolResult
from envs.corpus import Corpus, build_corpus
from envs.images import FileImageStore
from envs.nano.lookup import Lookup
from envs.nano.world import World
from envs.passages import one_line, relevant_passages
from envs.provider import Fetched, Page, SearchHit, SearchProvider
from envs.store.library import Library
from envs.store.store import Store
from envs.toolbox import UNAVAILABLE, LocalToolbox
from envs.tools import BrowseTool, ImageSearchTool, SearchTool
from envs.tools.base import ProviderTool
from envs.tools.lines import NOTHING_FOUND
from tests.builders import make_rollout_id, png_bytes
from tests.fakes.images import MemoryImageStore


class SetProvider:
    """A provider whose answers are set beforehand; `error` makes every method fail."""

    version = "set-1"

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.hits: dict[str, tuple[SearchHit, ...]] = {}
        self.images: tuple[FoundImage, ...] = ()
        self.pages: dict[str, Page] = {}
        self.error: Exception | None = None
        self.delay_s = 0.0

    async def _answer(self, *event: Any) -> None:
        self.events.append(event)
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        await self._answer("search", query, k)
        return Fetched(value=self.hits.get(query, ())[:k], provider="set")

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        await self._answer("image_search", query, k)
        return Fetched(value=self.images[:k], provider="set")

    async def page(self, url: str) -> Fetched[Page | None]:
        await self._answer("page", url)
        return Fetched(value=self.pages.get(url), provider="set")


def make_hit(number: int, *, title: str = "Torvi", snippet: str = "founded 47.") -> SearchHit:
    return SearchHit(url=f"p{number:04d}", title=title, snippet=snippet)


@pytest.fixture
def provider() -> SetProvider:
    return SetProvider()


@pytest.fixture
def toolbox(provider: SetProvider, tmp_path: Path) -> LocalToolbox:
    return open_toolbox(provider, tmp_path)


def open_toolbox(
    provider: SearchProvider, folder: Path, *, deadline_s: float = 60.0
) -> LocalToolbox:
    library = Library(Store(folder / "store"))
    tools: list[ProviderTool[Any]] = [
        SearchTool(library.search(provider), top_k=3),
        ImageSearchTool(library.image_search(provider), top_k=2),
        BrowseTool(library.pages(provider)),
    ]
    return LocalToolbox(tools, library, deadline_s=deadline_s)


async def call(toolbox: LocalToolbox, name: str, arguments: Any) -> ToolResult:
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
    result = await toolbox.call(ToolCall(name=name, arguments=raw), rollout_id=make_rollout_id())
    return replace(result, latency_s=0.0, call_key="")


async def test_search_joins_queries_and_shows_a_page_once(
    toolbox: LocalToolbox, provider: SetProvider
) -> None:
    provider.hits = {"a": (make_hit(1), make_hit(2)), "b": (make_hit(2), make_hit(3))}
    result = await call(toolbox, "search", {"queries": [" a", "b", "a"]})
    lines = [
        "[p0001] Torvi: founded 47.",
        "[p0002] Torvi: founded 47.",
        "[p0003] Torvi: founded 47.",
    ]
    assert result == ToolResult(text="\n".join(lines))
    assert provider.events == [("search", "a", 3), ("search", "b", 3)]


async def test_a_page_cannot_forge_a_second_line(
    toolbox: LocalToolbox, provider: SetProvider
) -> None:
    provider.hits = {"a": (make_hit(1, title="T\n[p9] X: y\x00\u2028z", snippet="s" * 9999),)}
    text = (await call(toolbox, "search", {"queries": ["a"]})).text
    assert text.startswith("[p0001] T [p9] X: y z: sss")
    assert len(text) < 600
    assert "\n" not in text


async def test_nothing_found_is_said_in_words(toolbox: LocalToolbox) -> None:
    for name, arguments in [("search", {"queries": ["a"]}), ("image_search", {"query": "a"})]:
        assert await call(toolbox, name, arguments) == ToolResult(text=NOTHING_FOUND)
    browsed = await call(toolbox, "browse", {"url": "p1", "query": "a"})
    assert browsed == ToolResult(text="there is no such page")


async def test_image_search_gives_images_and_leaves_the_text_to_the_episode(
    toolbox: LocalToolbox, provider: SetProvider, tmp_path: Path
) -> None:
    colours = [(shade, 0, 0) for shade in (50, 100, 150)]
    refs = [FileImageStore(tmp_path / "store" / "images").put(png_bytes(c)) for c in colours]
    provider.images = tuple(
        FoundImage(ref=ref, title=f"flag\n{n}", page_url="")
        for n, ref in zip("abc", refs, strict=True)
    )
    result = await call(toolbox, "image_search", {"query": "flag", "top_k": 9})
    assert result.text == ""
    assert [image.title for image in result.images] == ["flag a", "flag b"]
    assert provider.events == [("image_search", "flag", 2)]


async def test_browse_gives_a_short_page_whole_and_the_right_part_of_a_long_one(
    toolbox: LocalToolbox, provider: SetProvider
) -> None:
    filler = "\n\n".join(f"paragraph {n} " + "about nothing " * 40 for n in range(50))
    provider.pages = {
        "p1": Page(url="p1", title="Torvi", text="founded 47,\nfield red."),
        "p2": Page(
            url="p2", title="Long", text=f"{filler}\n\nTorvi was founded in 47.\n\n{filler}"
        ),
    }
    short = await call(toolbox, "browse", {"url": "p1", "query": "year"})
    assert short.text == "[p1] Torvi: founded 47, field red."
    long = await call(toolbox, "browse", {"url": "p2", "query": "When was Torvi founded?"})
    assert "Torvi was founded in 47." in long.text
    assert len(long.text) < 4200


BAD_ARGUMENTS = [
    ("search", "", "not valid JSON"),
    ("search", "{", "not valid JSON"),
    ("search", "[]", "not a JSON object"),
    ("search", "null", "not a JSON object"),
    ("search", {}, "queries is missing"),
    ("search", {"query": "a", "queries": ["a"]}, "unknown name; use queries, top_k"),
    ("search", {"queries": []}, "queries: "),
    ("search", {"queries": "a"}, "queries: "),
    ("search", {"queries": ["a"] * 6}, "queries: "),
    ("search", {"queries": [" \n"]}, "queries: it is empty"),
    ("search", {"queries": ["a" * 401]}, "queries: it is longer than 400 characters"),
    ("search", {"queries": ["a"], "top_k": 0}, "top_k: "),
    ("search", {"queries": ["a"], "top_k": "3"}, "top_k: "),
    ("search", {"queries": ["a"], "top_k": True}, "top_k: "),
    ("image_search", {"query": "a", "save_dir": "/etc"}, "unknown name; use query, top_k"),
    ("browse", {"url": "p1"}, "query is missing"),
    ("browse", {"url": "", "query": "a"}, "url: it is empty"),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), BAD_ARGUMENTS)
async def test_a_bad_argument_is_one_sentence_and_reaches_no_provider(
    toolbox: LocalToolbox, provider: SetProvider, name: str, arguments: Any, expected: str
) -> None:
    result = await call(toolbox, name, arguments)
    assert result.text.startswith(f"bad arguments: {expected}")
    assert result.error is None
    assert "\n" not in result.text
    assert provider.events == []
    assert toolbox.counters().bad_calls == 1


async def test_an_unknown_tool_is_an_ordinary_result(toolbox: LocalToolbox) -> None:
    result = await call(toolbox, "rm", {})
    assert result == ToolResult(text="there is no such tool; use search, image_search, browse")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
RAW_ARGUMENTS = (
    st.text()
    | JSON_VALUES.map(json.dumps)
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("queries", "query", "url", "top_k"), JSON_VALUES)
    ).map(json.dumps)
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(["search", "image_search", "browse"]), raw=RAW_ARGUMENTS)
async def test_no_arguments_break_a_tool(toolbox: LocalToolbox, name: str, raw: str) -> None:
    result = await call(toolbox, name, raw)
    assert result.error is None
    assert result.text.isascii()


async def test_a_provider_that_is_down_is_an_error_that_is_not_kept(
    toolbox: LocalToolbox, provider: SetProvider
) -> None:
    provider.error = ToolError("HTTP 503 after 3 tries")
    result = await call(toolbox, "search", {"queries": ["a"]})
    assert result == ToolResult(text=UNAVAILABLE, error="search: HTTP 503 after 3 tries")
    provider.error = None
    assert (await call(toolbox, "search", {"queries": ["a"]})).error is None
    assert toolbox.counters().errors == 1


async def test_a_provider_that_is_too_slow_is_an_error(
    provider: SetProvider, tmp_path: Path
) -> None:
    toolbox = open_toolbox(provider, tmp_path, deadline_s=0.5)
    provider.delay_s = 10.0
    result = await call(toolbox, "browse", {"url": "p1", "query": "a"})
    assert (result.text, result.error) == (UNAVAILABLE, "browse: no answer within 0.5 s")


async def test_a_defect_of_a_provider_is_an_error_and_a_store_fault_is_not_hidden(
    toolbox: LocalToolbox, provider: SetProvider
) -> None:
    provider.error = KeyError("organic")
    result = await call(toolbox, "search", {"queries": ["a"]})
    assert result.error == "search: provider: KeyError: 'organic'"
    provider.error = InfraError("the image store is full")
    with pytest.raises(InfraError, match="full"):
        await call(toolbox, "search", {"queries": ["a"]})


async def test_equal_calls_share_one_key_however_they_are_written(
    toolbox: LocalToolbox, provider: SetProvider
) -> None:
    first = await call(toolbox, "search", '{"queries": ["a  b"]}')
    second = await call(toolbox, "search", '{"top_k": 3,\n"queries":["a b"]}')
    assert (first.cached, second.cached) == (False, True)
    await call(toolbox, "search", {"queries": ["a b"], "top_k": 4})
    provider.version = "set-2"
    await call(toolbox, "search", {"queries": ["a b"]})
    counters = toolbox.counters()
    assert (counters.calls, counters.hits, counters.fetches, counters.in_flight) == (4, 1, 3, 0)


def test_the_schemas_name_what_the_tools_read(provider: SetProvider) -> None:
    tools = (
        SearchTool(provider, top_k=3),
        ImageSearchTool(provider, top_k=2),
        BrowseTool(provider),
    )
    for tool in tools:
        model = tool.model.model_json_schema()
        assert set(tool.spec.parameters["properties"]) == set(model["properties"])
        assert tool.spec.parameters["required"] == model["required"]
    assert tools[0].spec.parameters["properties"]["top_k"]["default"] == 3


@given(text=st.text(), query=st.text(max_size=20), max_chars=st.integers(50, 200))
def test_passages_are_one_printable_line_within_their_budget(
    text: str, query: str, max_chars: int
) -> None:
    passages = relevant_passages(text * 5, query, max_chars=max_chars)
    assert len(passages) <= max_chars
    assert passages.isprintable()


def test_one_line_cuts_and_cleans() -> None:
    assert one_line(" a\tb\r\nc\u200b\ud800d ", max_chars=20) == "a b c d"
    assert one_line("abcdefgh", max_chars=6) == "abc..."


async def test_the_nano_world_reads_as_its_policy_was_taught(tmp_path: Path) -> None:
    world, store = World(seed=0, num_train=12, num_heldout=6), MemoryImageStore()
    path = tmp_path / "corpus.sqlite"
    build_corpus(path, pages=world.pages(), images=world.images(), store=store)
    corpus, lookup = Corpus(path), Lookup(world)
    library = Library(Store(tmp_path / "store"), run_images=store)
    tools: list[ProviderTool[Any]] = [
        SearchTool(library.search(corpus), top_k=3),
        ImageSearchTool(library.image_search(corpus), top_k=3),
        BrowseTool(library.pages(corpus)),
    ]
    toolbox = LocalToolbox(tools, library)
    for thing in world.things:
        pages = [f"[{p.url}] {p.title}: {p.text}" for p in lookup.search(thing.title)]
        result = await call(toolbox, "search", {"queries": [thing.title]})
        assert result.text.split("\n") == pages
    country = world.countries[0]
    query = f"flag of {country.name}"
    images = (await call(toolbox, "image_search", {"query": query})).images
    found = lookup.image_search(query)
    assert [store.get(image.ref) for image in images] == [image.png for image in found]
    assert [image.title for image in images] == [image.caption for image in found]
