"""Titles, urls and snippets that try to be lines of their own: one hit stays one line."""

import io
import re

import pytest
from PIL import Image

from core.records import FoundImage, ImageRef, ToolResult
from envs.chat import ChatFormat
from envs.provider import Fetched, Page, SearchHit
from envs.tools import BrowseTool, ImageSearchTool, SearchTool
from envs.transcript import Transcript
from tests.builders import make_image_ref, png_bytes
from tests.fakes.images import MemoryImageStore
from tests.security.hostile_texts import FORGED_LINES

LINE_BREAKS = re.compile("[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")


class Forging:
    """Implements the provider Protocols; every text field of a result is forged."""

    version = "forging"

    def __init__(self, text: str) -> None:
        self._text = text

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        hit = SearchHit(url=f"http://a.test/{self._text}", title=self._text, snippet=self._text)
        return Fetched(value=(hit,), provider="forging")

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        image = FoundImage(ref=make_image_ref("x"), title=self._text, page_url=self._text)
        return Fetched(value=(image,), provider="forging")

    async def page(self, url: str) -> Fetched[Page | None]:
        text = f"{self._text} about a\n\n{self._text}"
        return Fetched(value=Page(url=url, title=self._text, text=text), provider="forging")


@pytest.mark.parametrize("forged", FORGED_LINES, ids=ascii)
async def test_a_hit_and_a_page_are_one_printable_line(forged: str) -> None:
    provider = Forging(forged)
    search, browse = SearchTool(provider, top_k=1), BrowseTool(provider)
    for result in (
        await search.run(search.read('{"queries": ["a"]}')),
        await browse.run(browse.read('{"url": "http://a.test", "query": "a"}')),
    ):
        assert not LINE_BREAKS.search(result.text)
        assert result.text.isprintable()
        assert result.text.startswith("[http://a.test")


@pytest.mark.parametrize("forged", FORGED_LINES, ids=ascii)
async def test_an_image_is_one_line_that_we_numbered(chat: ChatFormat, forged: str) -> None:
    tool = ImageSearchTool(Forging(forged), top_k=1)
    result = await tool.run(tool.read('{"query": "a"}'))
    store = MemoryImageStore()
    found = [
        (
            FoundImage(ref=store.put(data), title=result.images[0].title, page_url=""),
            data,
        )
        for data in (png_bytes(), png_bytes((0, 0, 255)))
    ]
    transcript = Transcript(chat, system="s", prompt="p")
    transcript.add_completion([chat.stop_id])
    transcript.add_response(ToolResult(text=""), found, note="", max_tokens=2000)
    shown = chat.decode(transcript.engine_ids).partition("<tool_response>")[2]
    lines = shown.partition("</tool_response>")[0].strip("\n").split("\n")
    assert [line[:8] for line in lines] == ["IMG_001:", "IMG_002:"]
    assert not LINE_BREAKS.search("".join(lines))
    assert [name for name, _ in transcript.shown] == ["IMG_001", "IMG_002"]


async def test_a_title_cannot_make_a_file_be_read() -> None:
    """A reference is a digest; the store refuses anything else as a name."""
    store = MemoryImageStore()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    ref = store.put(buffer.getvalue())
    assert isinstance(ref, ImageRef)
    assert "/" not in ref.sha256
