"""What a recorded call showed is kept, shown again byte by byte, and comparable between runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import ToolError
from core.records import ToolCall, ToolResult
from envs.observations import observation_digest
from envs.store.library import Library
from envs.store.store import Store
from envs.toolbox import UNAVAILABLE, LocalToolbox
from envs.tools import BrowseTool, ImageSearchTool, SearchTool
from envs.tools.base import ProviderTool
from tests.builders import make_rollout_id
from tests.fakes.library import CountedProvider, open_library


def tools_over(library: Library, provider: CountedProvider | None) -> list[ProviderTool[Any]]:
    return [
        SearchTool(library.search(provider), top_k=2),
        ImageSearchTool(library.image_search(provider), top_k=2),
        BrowseTool(library.pages(provider)),
    ]


def tool_call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=json.dumps(arguments))


CALLS = [
    tool_call("search", queries=["flag of Torvi", "b"]),
    tool_call("search", queries=["none"]),
    tool_call("image_search", query="a"),
    tool_call("browse", url="u", query="text"),
    tool_call("browse", url="none", query="x"),
]


async def ask(toolbox: LocalToolbox, call: ToolCall) -> ToolResult:
    return await toolbox.call(call, rollout_id=make_rollout_id())


async def record(folder: Path) -> dict[str, ToolResult]:
    library = open_library(folder, mode="record")
    provider = CountedProvider(library.images)
    toolbox = LocalToolbox(tools_over(library, provider), library)
    shown = [await ask(toolbox, call) for call in CALLS]
    provider.error = ToolError("HTTP 500 from it")
    shown.append(await ask(toolbox, tool_call("search", queries=["broken"])))
    await toolbox.close()
    return {result.call_key: result for result in shown}


async def test_a_replay_shows_what_the_recording_showed(tmp_path: Path) -> None:
    recorded = await record(tmp_path)
    library = open_library(tmp_path, mode="replay")
    toolbox = LocalToolbox(tools_over(library, None), library)
    again = tool_call("search", top_k=2, queries=[" flag of  Torvi", "b", "b"])
    for call in [*CALLS, again, tool_call("search", queries=["broken"])]:
        result = await ask(toolbox, call)
        before = recorded[result.call_key]
        assert (result.text, result.images, result.error) == (
            *(before.text, before.images, before.error),
        )
        assert (result.cached, result.upstream_calls) == (result.error is None, 0)
        kept = Store(tmp_path).observations()[result.call_key]
        assert kept.digest == observation_digest(result)
        assert kept.failed == (result.error is not None)


async def test_a_call_that_was_not_recorded_is_a_failure_or_says_whose_answer_it_is(
    tmp_path: Path,
) -> None:
    await record(tmp_path)
    call = tool_call("search", queries=["flag of Zorvia"])
    strict = open_library(tmp_path, mode="replay", session="s/0")
    result = await ask(LocalToolbox(tools_over(strict, None), strict), call)
    assert (result.text, result.error) == (
        UNAVAILABLE,
        "search: search 'flag of Zorvia' was not recorded",
    )
    lenient = open_library(tmp_path, mode="replay", on_miss="nearest", session="l/0")
    toolbox = LocalToolbox(tools_over(lenient, None), lenient)
    result = await ask(toolbox, call)
    assert result.stand_in == "flag of Torvi"
    note, *lines = result.text.split("\n")
    assert note == 'no answer to "flag of Zorvia" was recorded; this one is to "flag of Torvi"'
    assert len(lines) == 2
    counters = toolbox.counters()
    assert (dict(counters.misses), counters.errors) == ({"nearest": 1}, 0)


async def test_the_toolbox_counts_what_calls_took(tmp_path: Path) -> None:
    library = open_library(tmp_path, session="run/1")
    provider = CountedProvider(library.images)
    provider.pay = library.tallies.pay
    toolbox = LocalToolbox(tools_over(library, provider), library)
    first = await ask(toolbox, CALLS[0])
    assert (first.upstream_calls, first.cost_usd, first.cached) == (2, 0.5, False)
    await ask(toolbox, CALLS[0])
    await ask(toolbox, CALLS[2])
    await ask(toolbox, tool_call("rm"))
    counters = toolbox.counters()
    assert (counters.calls, counters.bad_calls, counters.errors) == (4, 1, 0)
    assert (counters.hits, counters.fetches, counters.upstream_calls) == (2, 3, 3)
    assert counters.dollars == {"counted": 0.5}
    assert counters.pins == 2
    assert 0 <= counters.p50_s <= counters.p95_s
    await toolbox.call(CALLS[2], rollout_id=replace(make_rollout_id(), heldout=True))
    await toolbox.release([make_rollout_id().ordinal])
    assert toolbox.counters().pins == 2, "a held-out task of the same ordinal keeps its own"
