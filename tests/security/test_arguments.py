"""Tool arguments that a policy could write: refused with a sentence, or carried as plain data."""

import json
from typing import Any, Final

import pytest

from core.records import ImageRef
from envs.parsing import ToolCallBlock, parse_completion
from envs.provider import Fetched, Page, SearchHit
from envs.tools import BrowseTool, ImageSearchTool, SearchTool

REFUSED: Final[tuple[tuple[str, str], ...]] = (
    # Names that no schema has: paths, headers and switches of the published tools among them.
    ("image_search", '{"query": "a", "save_dir": "/root/.ssh"}'),
    ("image_search", '{"query": "a", "sample_id": "../../x"}'),
    ("search", '{"queries": ["a"], "headers": {"Host": "x"}}'),
    ("search", '{"queries": ["a"], "api_key": "k"}'),
    ("search", '{"queries": ["a"], "__class__": "x"}'),
    ("search", '{"queries": ["a"], "self": 1}'),
    ("browse", '{"url": "http://a.test", "query": "a", "timeout_s": 1e9}'),
    ("browse", '{"url": "http://a.test", "query": "a", "max_bytes": 1e12}'),
    # Other types than the schema says.
    ("search", '{"queries": "a"}'),
    ("search", '{"queries": [["a"]]}'),
    ("search", '{"queries": [{"$ne": ""}]}'),
    ("search", '{"queries": [null]}'),
    ("search", '{"queries": []}'),
    ("search", '{"queries": ["a", "b", "c", "d", "e", "f"]}'),
    ("search", '{"queries": ["a"], "top_k": 0}'),
    ("search", '{"queries": ["a"], "top_k": -1}'),
    ("search", '{"queries": ["a"], "top_k": 1000000000}'),
    ("search", '{"queries": ["a"], "top_k": "3"}'),
    ("search", '{"queries": ["a"], "top_k": true}'),
    ("search", '{"queries": ["a"], "top_k": NaN}'),
    ("search", '{"queries": ["a"], "top_k": 1e400}'),
    ("image_search", '{"query": ["a"]}'),
    ("image_search", '{"query": 7}'),
    ("browse", '{"url": {"host": "a"}, "query": "a"}'),
    # Empty, endless or unreadable.
    ("search", '{"queries": [""]}'),
    ("search", '{"queries": ["\\u200b\\u0000 \\n"]}'),
    ("search", json.dumps({"queries": ["x" * 401]})),
    ("browse", json.dumps({"url": "http://a.test/" + "x" * 3000, "query": "a"})),
    ("browse", '{"url": "", "query": "a"}'),
    ("browse", '{"query": "a"}'),
    ("search", ""),
    ("search", "null"),
    ("search", "[]"),
    ("search", '"queries"'),
    ("search", "{'queries': ['a']}"),
    ("search", '{"queries": ["a"'),
    ("search", "[" * 100_000),
    ("search", '{"queries": ["\\ud800"]}'),
)

CARRIED: Final[tuple[str, ...]] = (
    "../../etc/passwd",
    "; rm -rf / #",
    "$(reboot) `reboot`",
    "' OR 1=1; DROP TABLE pages; --",
    'x" OR pages MATCH "y',
    "NEAR(a b) AND title:c*",
    "{{7*7}} ${7*7} %s %n {0.__class__}",
    "a&b=c#d?e=f",
    "<script>alert(1)</script>",
    "site:evil.test @user",
)
"""Queries that mean something to some program; to ours they are words."""


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
