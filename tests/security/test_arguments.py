"""Tool arguments that a policy could write: refused with a sentence, or carried as plain data."""

import json
from typing import Any

import pytest

from core.records import ImageRef
from envs.parsing import ToolCallBlock, parse_completion
from envs.provider import Fetched, Page, SearchHit
from envs.tools import BrowseTool, ImageSearchTool, SearchTool
from tests.security.hostile_arguments import CARRIED, REFUSED


class Listening:
    """Implements the provider Protocols; `heard` keeps what reached it."""

    version = "listening"

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        self.heard.append((query, k))
        return Fetched(value=(), provider="listening")

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[Any, ...]]:
        self.heard.append((query, k))
        return Fetched(value=(), provider="listening")

    async def page(self, url: str) -> Fetched[Page | None]:
        self.heard.append((url,))
        return Fetched(value=None, provider="listening")


def tools(provider: Listening) -> dict[str, Any]:
    return {
        "search": SearchTool(provider, top_k=3),
        "image_search": ImageSearchTool(provider, top_k=3),
        "browse": BrowseTool(provider),
    }


@pytest.mark.parametrize(("name", "arguments"), REFUSED, ids=lambda text: text[:40])
def test_bad_arguments_are_one_sentence_and_reach_no_provider(name: str, arguments: str) -> None:
    provider = Listening()
    with pytest.raises(ValueError, match=r"^bad arguments: ") as caught:
        tools(provider)[name].read(arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 200
    assert provider.heard == []


@pytest.mark.parametrize("query", CARRIED)
async def test_what_other_programs_would_obey_is_carried_as_words(query: str) -> None:
    provider = Listening()
    tool = tools(provider)["search"]
    await tool.run(tool.read(json.dumps({"queries": [query]})))
    assert provider.heard == [(query, 3)]


@pytest.mark.parametrize(
    "completion",
    [
        '<tool_call>{"name": "search", "name": "browse", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": {"queries": 1, "queries": 2}}</tool_call>',
        '<tool_call>{"name": ["search"], "arguments": {}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": "{\\"a\\": NaN}"}</tool_call>',
        '<tool_call>{"name": "search", "arguments": ' + "[" * 50_000 + "</tool_call>",
        "<tool_call>" * 5000,
        "<think>" * 5000,
        "<tool_call>{" + '"a":{' * 20_000,
    ],
    ids=range(8),
)
def test_a_malformed_call_is_no_call(completion: str) -> None:
    assert not isinstance(parse_completion(completion), ToolCallBlock)


def test_the_image_reference_of_a_result_names_no_path() -> None:
    """The published pipeline read back "local_path: .." lines; here only a digest names a file."""
    assert set(ImageRef.__slots__) == {"sha256", "media_type", "width", "height"}
