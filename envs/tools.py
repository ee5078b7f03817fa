"""The three tools of the policy, over any provider: search, image_search, browse.

In: raw JSON arguments as the policy wrote them. Out: a ToolResult whose text is short and printable
but still untrusted. A bad argument is an ordinary result with one sentence. Only fields that a
schema names reach a provider, and none as a path or a header. `fetch` raises ToolError when the
provider is down; `envs.toolbox.LocalToolbox` turns that into a result with `error` set.
"""

import asyncio
import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from core.protocols import ToolSpec
from core.records import ToolResult
from envs.passages import one_line, relevant_passages
from envs.provider import ImageSearch, Page, PageReader, SearchHit, TextSearch

RESULT_VERSION = 1
"""Part of every cache key; raise it when the text of a result is made in another way."""
MAX_QUERY_CHARS = 400
MAX_URL_CHARS = 2048
MAX_TITLE_CHARS = 160
MAX_SNIPPET_CHARS = 400
MAX_PAGE_CHARS = 4000
NOTHING_FOUND = "nothing found"


class ArgumentsError(ValueError):
    """One sentence for the policy: what is wrong with its arguments."""


def _query(text: str) -> str:
    return _bounded(text, max_chars=MAX_QUERY_CHARS)


def _url(text: str) -> str:
    return _bounded(text, max_chars=MAX_URL_CHARS)


def _bounded(text: str, *, max_chars: int) -> str:
    line = one_line(text, max_chars=max_chars + 1)
    if not line:
        raise ValueError("it is empty")
    if len(line) > max_chars:
        raise ValueError(f"it is longer than {max_chars} characters")
    return line


Query = Annotated[str, AfterValidator(_query)]
TopK = Annotated[int | None, Field(ge=1, le=20)]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SearchArguments(_Arguments):
    queries: list[Query] = Field(min_length=1, max_length=5)
    top_k: TopK = None


class ImageSearchArguments(_Arguments):
    query: Query
    top_k: TopK = None


class BrowseArguments(_Arguments):
    url: Annotated[str, AfterValidator(_url)]
    query: Query


Arguments = TypeVar("Arguments", bound=_Arguments)


class ProviderTool(ABC, Generic[Arguments]):
    """Implements core.protocols.Tool in three steps that the toolbox takes one by one."""

    model: type[Arguments]
    spec: ToolSpec

    def read(self, arguments: str) -> Arguments:
        """Raises ArgumentsError."""
        try:
            return self.model.model_validate_json(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ArgumentsError(_sentence(dict(first), known=self.model.model_fields)) from error

    def key(self, arguments: Arguments) -> str:
        """Equal for calls that must give equal results."""
        parts = [RESULT_VERSION, self.spec.name, self.provider_version, arguments.model_dump()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    @abstractmethod
    def provider_version(self) -> str: ...

    @abstractmethod
    async def fetch(self, arguments: Arguments) -> ToolResult:
        """Raises ToolError."""

    async def run(self, arguments: str) -> ToolResult:
        """Raises ToolError; a bad argument is an ordinary result."""
        try:
            return await self.fetch(self.read(arguments))
        except ArgumentsError as error:
            return ToolResult(text=str(error))


class SearchTool(ProviderTool[SearchArguments]):
    """Text search; several queries of one call run side by side, a page comes once."""

    model = SearchArguments

    def __init__(self, provider: TextSearch, *, top_k: int) -> None:
        self._provider = provider
        self._top_k = top_k
        self.spec = ToolSpec(
            name="search",
            description="Search text. Gives urls, titles and snippets for every query.",
            parameters=_schema(
                {
                    "queries": {
                        "type": "array",
                        "items": {"type": "string"},
                        "minItems": 1,
                        "maxItems": 5,
                    },
                    "top_k": _top_k_schema(top_k, at_most=20),
                },
                required=["queries"],
            ),
        )

    @property
    def provider_version(self) -> str:
        return self._provider.version

    def read(self, arguments: str) -> SearchArguments:
        read = super().read(arguments)
        return read.model_copy(
            update={
                "top_k": read.top_k or self._top_k,
                "queries": list(dict.fromkeys(read.queries)),
            }
        )

    async def fetch(self, arguments: SearchArguments) -> ToolResult:
        k = arguments.top_k or self._top_k
        found = await asyncio.gather(*(self._provider.search(q, k=k) for q in arguments.queries))
        lines = {hit.url: _line(hit) for hits in found for hit in hits.value}
        return ToolResult(
            text="\n".join(lines.values()) or NOTHING_FOUND,
            cost_usd=sum(hits.cost_usd for hits in found),
        )


class ImageSearchTool(ProviderTool[ImageSearchArguments]):
    """Image search. The episode writes the images' lines, so the text is empty if there are any."""

    model = ImageSearchArguments

    def __init__(self, provider: ImageSearch, *, top_k: int) -> None:
        self._provider = provider
        self._top_k = top_k
        self.spec = ToolSpec(
            name="image_search",
            description="Search images. Shows the images with their titles.",
            parameters=_schema(
                {"query": {"type": "string"}, "top_k": _top_k_schema(top_k, at_most=top_k)},
                required=["query"],
            ),
        )

    @property
    def provider_version(self) -> str:
        return self._provider.version

    def read(self, arguments: str) -> ImageSearchArguments:
        """More images than the episode takes are not an error: the rest is left out."""
        read = super().read(arguments)
        return read.model_copy(update={"top_k": min(read.top_k or self._top_k, self._top_k)})

    async def fetch(self, arguments: ImageSearchArguments) -> ToolResult:
        k = arguments.top_k or self._top_k
        found = await self._provider.image_search(arguments.query, k=k)
        images = tuple(
            replace(
                image,
                title=one_line(image.title, max_chars=MAX_TITLE_CHARS),
                page_url=one_line(image.page_url, max_chars=MAX_URL_CHARS),
            )
            for image in found.value
        )
        text = "" if images else NOTHING_FOUND
        return ToolResult(text=text, images=images, cost_usd=found.cost_usd)


class BrowseTool(ProviderTool[BrowseArguments]):
    """Reads one page and gives the passages that are most relevant to the query."""

    model = BrowseArguments
    spec = ToolSpec(
        name="browse",
        description="Read the page at a url. Gives what it says about the query.",
        parameters={
            "type": "object",
            "properties": {"url": {"type": "string"}, "query": {"type": "string"}},
            "required": ["url", "query"],
            "additionalProperties": False,
        },
    )

    def __init__(self, provider: PageReader) -> None:
        self._provider = provider

    @property
    def provider_version(self) -> str:
        return self._provider.version

    async def fetch(self, arguments: BrowseArguments) -> ToolResult:
        found = await self._provider.page(arguments.url)
        if found.value is None:
            return ToolResult(text="there is no such page", cost_usd=found.cost_usd)
        excerpt = _excerpt(found.value, arguments.query)
        return ToolResult(text=_line(excerpt, max_chars=MAX_PAGE_CHARS), cost_usd=found.cost_usd)


def _excerpt(page: Page, query: str) -> SearchHit:
    text = relevant_passages(page.text, query, max_chars=MAX_PAGE_CHARS)
    return SearchHit(url=page.url, title=page.title, snippet=text)


def _line(hit: SearchHit, *, max_chars: int = MAX_SNIPPET_CHARS) -> str:
    url = one_line(hit.url, max_chars=MAX_URL_CHARS)
    title = one_line(hit.title, max_chars=MAX_TITLE_CHARS)
    return f"[{url}] {title}: {one_line(hit.snippet, max_chars=max_chars)}"


def _schema(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _top_k_schema(default: int, *, at_most: int) -> dict[str, Any]:
    return {"type": "integer", "default": default, "minimum": 1, "maximum": at_most}


def _sentence(error: dict[str, Any], *, known: Any) -> str:
    match error["type"]:
        case "json_invalid":
            return "bad arguments: not valid JSON"
        case "model_type":
            return "bad arguments: not a JSON object"
        case "extra_forbidden":
            return f"bad arguments: unknown name; use {', '.join(known)}"
        case "missing":
            return f"bad arguments: {error['loc'][0]} is missing"
        case _:
            message = error["msg"].removeprefix("Value error, ")
            return f"bad arguments: {error['loc'][0]}: {message}"
