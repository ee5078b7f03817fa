"""`image_search(query, top_k)`: images with their titles."""

from dataclasses import replace

from core.protocols import ToolSpec
from core.records import ToolResult
from envs.passages import one_line
from envs.provider import ImageSearch
from envs.tools.base import (
    MAX_URL_CHARS,
    ProviderTool,
    Query,
    ToolArguments,
    TopK,
    parameters,
    result_of,
    top_k_schema,
)
from envs.tools.lines import MAX_TITLE_CHARS, NOTHING_FOUND, stand_in_lines


class ImageSearchArguments(ToolArguments):
    query: Query
    top_k: TopK = None


class ImageSearchTool(ProviderTool[ImageSearchArguments]):
    """The episode writes the images' lines, so the text is empty if there are any."""

    model = ImageSearchArguments

    def __init__(self, provider: ImageSearch, *, top_k: int) -> None:
        self._provider = provider
        self._top_k = top_k
        self.spec = ToolSpec(
            name="image_search",
            description="Search images. Shows the images with their titles.",
            parameters=parameters(
                {"query": {"type": "string"}, "top_k": top_k_schema(top_k, at_most=top_k)},
                required=["query"],
            ),
        )

    def read(self, arguments: str) -> ImageSearchArguments:
        """More images than the episode takes are not an error: the rest is left out."""
        read = super().read(arguments)
        return read.model_copy(update={"top_k": min(read.top_k or self._top_k, self._top_k)})

    async def run(self, arguments: ImageSearchArguments) -> ToolResult:
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
        notes = stand_in_lines(arguments.query, found)
        text = "\n".join(notes if images else [*notes, NOTHING_FOUND])
        return result_of(text, [found], images=images)
