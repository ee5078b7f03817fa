"""`search(queries, top_k)`: text search; the queries of a call run side by side."""

import asyncio

from pydantic import Field

from core.protocols import ToolSpec
from core.records import ToolResult
from envs.provider import TextSearch
from envs.tools.base import (
    ProviderTool,
    Query,
    ToolArguments,
    TopK,
    parameters,
    result_of,
    top_k_schema,
)
from envs.tools.lines import NOTHING_FOUND, hit_line, stand_in_lines


class SearchArguments(ToolArguments):
    queries: list[Query] = Field(min_length=1, max_length=5)
    top_k: TopK = None


class SearchTool(ProviderTool[SearchArguments]):
    """Gives a line per page; a page that several queries find comes once."""

    model = SearchArguments

    def __init__(self, provider: TextSearch, *, top_k: int) -> None:
        self._provider = provider
        self._top_k = top_k
        queries = {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": 5,
        }
        self.spec = ToolSpec(
            name="search",
            description="Search text. Gives urls, titles and snippets for every query.",
            parameters=parameters(
                {"queries": queries, "top_k": top_k_schema(top_k, at_most=20)},
                required=["queries"],
            ),
        )

    def read(self, arguments: str) -> SearchArguments:
        read = super().read(arguments)
        return read.model_copy(
            update={
                "top_k": read.top_k or self._top_k,
                "queries": list(dict.fromkeys(read.queries)),
            }
        )

    async def run(self, arguments: SearchArguments) -> ToolResult:
        k = arguments.top_k or self._top_k
        queries = arguments.queries
        asked = [self._provider.search(query, k=k) for query in queries]
        found = await asyncio.gather(*asked) if len(asked) > 1 else [await asked[0]]
        lines: dict[str, str] = {}
        notes: list[str] = []
        for query, hits in zip(queries, found, strict=True):
            notes += stand_in_lines(query, hits)
            lines |= {hit.url: hit_line(hit) for hit in hits.value}
        return result_of("\n".join([*notes, *lines.values()]) or NOTHING_FOUND, found)
