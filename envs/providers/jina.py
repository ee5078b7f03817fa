"""Jina's reader turns a page into markdown: https://jina.ai/reader, or one of your own.

In: a URL as data. Out: the page, from the JSON form or, if an installation knows no other, from
the plain one (`Title: ..`, `URL Source: ..`, `Markdown Content:`). None for what is no web page,
for a page that the reader itself was refused, and for an address that our own guard refuses: a
reader of one's own stands in one's own network. What a name resolves to is the reader's to check.
"""

import logging
import re
from collections.abc import Callable

from pydantic import BaseModel, Field

from core.errors import ToolError
from core.protocols import HttpResponse
from envs.guard import Guard, reason_of
from envs.provider import Fetched, Page
from envs.providers.service import Service, parse

logger = logging.getLogger(__name__)

UNREADABLE_PAGE = frozenset({400, 404, 410, 422, 451})
"""Statuses by which the reader says that it is the page's fault."""

_PLAIN = re.compile(
    r"Title:[ ]*(?P<title>[^\n]*)\n\s*URL Source:[^\n]*\n(?P<head>.*?)"
    r"Markdown Content:[ ]*\n(?P<text>.*)\Z",
    re.DOTALL,
)
_GONE = re.compile(r"Target URL returned error 4\d\d")


class _Usage(BaseModel):
    tokens: int = Field(0, ge=0)


class _Data(BaseModel):
    title: str | None = None
    content: str | None = None
    warning: str | None = None
    usage: _Usage | None = None


class _Reply(BaseModel):
    data: _Data


class Jina:
    """Implements envs.provider.PageReader."""

    def __init__(
        self,
        service: Service,
        *,
        guard: Guard,
        count: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`service.cost_usd` is the price of a million tokens of page text. `count` is told of
        every "refused/WHY"."""
        self._count = count
        self._service = service
        self._guard = guard

    @property
    def version(self) -> str:
        return self._service.name

    async def page(self, url: str) -> Fetched[Page | None]:
        try:
            self._guard.check_url(url)
        except ToolError as error:
            logger.info("page refused: %s", error)
            self._count(f"refused/{reason_of(error)}")
            return Fetched(value=None, provider=self._service.name)
        headers = {"Accept": "application/json"}
        if self._service.api_key:
            headers["Authorization"] = f"Bearer {self._service.api_key}"
        request = self._service.post(
            "/", {"url": url}, headers=headers, expected=UNREADABLE_PAGE | {200}
        )
        data = await self._service.endpoint.ask(request, _read)
        usage = (data.usage if data else None) or _Usage()
        page = None
        if data is not None and not _GONE.match(data.warning or ""):
            page = Page(url=url, title=data.title or "", text=data.content or "")
        return self._service.fetched(page, units=usage.tokens / 1e6)


def _read(response: HttpResponse) -> _Data | None:
    if response.status != 200:
        return None
    if response.headers.get("content-type", "").startswith("text/plain"):
        plain = _PLAIN.match(response.body.decode(errors="replace"))
        if plain:
            warning = re.search(r"^Warning: (.*)$", plain["head"], re.MULTILINE)
            return _Data(
                title=plain["title"].strip(),
                content=plain["text"],
                warning=warning[1] if warning else None,
            )
    return parse(response, _Reply).data
