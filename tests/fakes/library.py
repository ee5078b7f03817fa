"""A provider that is counted and gated, and a library over it in a folder of the test."""

import asyncio
from pathlib import Path
from typing import Any

from core.protocols import ImageStore
from core.records import FoundImage
from envs.provider import Fetched, Page, SearchHit, nobody_pays
from envs.store.library import Library, Usage
from envs.store.store import Store
from tests.builders import png_bytes


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class CountedProvider:
    """Every query finds one hit that names it; "none" finds nothing, `error` fails all."""

    version = "counted-1"

    def __init__(self, images: ImageStore | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.pay = nobody_pays
        self._images = images

    async def _asked(self, *call: Any) -> None:
        self.calls.append(call)
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        await self._asked("search", query, k)
        hits = tuple(SearchHit(url=f"p{n}", title=query, snippet="\ud83d x") for n in range(k))
        value = () if query == "none" else hits
        self.pay("counted", 0.25)
        return Fetched(value=value, provider="counted", upstream_calls=1, cost_usd=0.25)

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        await self._asked("image_search", query, k)
        assert self._images is not None
        shade = sum(query.encode()) % 256
        images = tuple(
            FoundImage(
                ref=self._images.put(png_bytes((shade, n, 0), size=(64, 64))),
                title=f"{query} {n}",
                page_url="p",
            )
            for n in range(k)
        )
        return Fetched(value=images, provider="counted", upstream_calls=1)

    async def page(self, url: str) -> Fetched[Page | None]:
        await self._asked("page", url)
        page = Page(url=url, title="T", text=f"text of {url} \ud800 " * 50)
        value = None if url == "none" else page
        return Fetched(value=value, provider="counted", upstream_calls=1)

    async def answer(self, page: Page, *, query: str) -> Fetched[str]:
        await self._asked("answer", page.url, query)
        return Fetched(value=f"{query}: {len(page.text)}", provider="model", upstream_calls=2)


def open_library(folder: Path, *, clock: Clock | None = None, **usage: Any) -> Library:
    """A library over the store in `folder`, in a clock's time if one is given."""
    store = Store(folder, now=clock) if clock else Store(folder)
    return Library(store, Usage(**usage))
