"""`browse(url, query)`: one page, and what it says about the query."""

import asyncio
from typing import Any

from core.protocols import ToolSpec
from core.records import ToolResult
from envs.passages import relevant_passages
from envs.provider import Fetched, PageReader, SearchHit, Summariser
from envs.tools.base import ProviderTool, Query, ToolArguments, Url, parameters, result_of
from envs.tools.lines import NOTHING_FOUND, hit_line, stand_in_lines

MAX_PAGE_CHARS = 4000
NO_PAGE = "there is no such page"


async def _passages(text: str, query: str) -> str:
    """Of a page of megabytes they take long enough to be kept off the event loop."""
    if len(text) <= MAX_PAGE_CHARS:
        return relevant_passages(text, query, max_chars=MAX_PAGE_CHARS)
    return await asyncio.to_thread(relevant_passages, text, query, max_chars=MAX_PAGE_CHARS)


class BrowseArguments(ToolArguments):
    url: Url
    query: Query


class BrowseTool(ProviderTool[BrowseArguments]):
    """A summariser's answer where there is one, else the most relevant passages."""

    model = BrowseArguments
    spec = ToolSpec(
        name="browse",
        description="Read the page at a url. Gives what it says about the query.",
        parameters=parameters(
            {"url": {"type": "string"}, "query": {"type": "string"}}, required=["url", "query"]
        ),
    )

    def __init__(self, provider: PageReader, *, summariser: Summariser | None = None) -> None:
        self._provider = provider
        self._summariser = summariser

    async def run(self, arguments: BrowseArguments) -> ToolResult:
        found = await self._provider.page(arguments.url)
        notes = stand_in_lines(arguments.url, found)
        page, parts = found.value, list[Fetched[Any]]([found])
        if page is None:
            return result_of("\n".join([*notes, NO_PAGE]), parts)
        if self._summariser is None:
            says = await _passages(page.text, arguments.query)
        else:
            answered: Fetched[str] = await self._summariser.answer(page, query=arguments.query)
            notes += stand_in_lines(arguments.query, answered)
            says = answered.value or NOTHING_FOUND
            parts.append(answered)
        line = hit_line(
            SearchHit(url=page.url, title=page.title, snippet=says), max_chars=MAX_PAGE_CHARS
        )
        return result_of("\n".join([*notes, line]), parts)
