"""Reads pages of the web itself: a plain GET through the guarded client, HTML made into markdown.

In: a URL that a result or the policy named. Out: the page; None for what is no web page, is not
text, is refused by the guard, answers with an error, or is silent while other hosts answer: that is
the page's fault and no reason to count an episode as failed. Raises ToolError when no response came
after the tries and none came from elsewhere either.
"""

import asyncio
import re
from collections.abc import Callable

from core.endpoint import NEVER_ASKED, Endpoint, HttpRequest
from core.errors import ToolError
from core.protocols import HttpResponse
from envs.guard import NeverSentError, reason_of
from envs.provider import Fetched, Page
from envs.providers.html import decode_text, is_html, is_text, page_of_html
from envs.providers.network import Network
from envs.providers.service import is_web_page

ANY_STATUS = frozenset(range(100, 600))
"""Read here, so that one host's Retry-After does not hold back the pages of all others."""
_NO_SUCH_HOST = re.compile(r"Name or service not known|No address associated|nodename nor servname")
"""What the resolvers of Linux and macOS say for certain; "temporary failure" is not among it."""
ACCEPT = "text/html, application/xhtml+xml, text/markdown, text/plain;q=0.9, */*;q=0.1"


class Fetch:
    """Implements envs.provider.PageReader."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str,
        max_bytes: int,
        count: Callable[[str], None] = lambda name: None,
        network: Network | None = None,
    ) -> None:
        """`endpoint` must be over a client that refuses private addresses. `count` is told of
        every "refused/WHY"."""
        self._count = count
        self._network = network or Network()
        self._endpoint = endpoint
        self._name = name
        self._max_bytes = max_bytes

    @property
    def version(self) -> str:
        return self._name

    async def page(self, url: str) -> Fetched[Page | None]:
        if not is_web_page(url):
            return self._refused("url")
        request = HttpRequest(
            method="GET",
            url=url,
            headers={"Accept": ACCEPT},
            max_bytes=self._max_bytes,
            expected=ANY_STATUS,
        )
        page = None
        try:
            response = await self._endpoint.ask(request, self._checked)
        except NeverSentError as error:
            return self._refused(reason_of(error))
        except ToolError as error:
            if error.retryable and not self._is_the_pages_fault(error):
                raise
        else:
            # lxml takes long enough to be kept off the event loop.
            page = await asyncio.to_thread(_page, url, response)
        return Fetched(value=page, provider=self._name, upstream_calls=1)

    def _refused(self, reason: str) -> Fetched[Page | None]:
        self._count(f"refused/{reason}")
        return Fetched(value=None, provider=self._name)

    def _checked(self, response: HttpResponse) -> HttpResponse:
        self._network.has_answered()
        status = response.status
        if status != 200:
            busy = status in (408, 425, 429) or status >= 500
            kind = f"HTTP {status}"
            raise ToolError(f"the page answered {kind}", retryable=busy, error_type=kind)
        return response

    def _is_the_pages_fault(self, error: ToolError) -> bool:
        """Its host answered with an error, there is no such host (addresses are made up, too), or
        it alone is silent."""
        if error.error_type.startswith("HTTP ") or _NO_SUCH_HOST.search(str(error)):
            return True
        return self._network.is_there and error.error_type != NEVER_ASKED


def _page(url: str, response: HttpResponse) -> Page | None:
    content_type = response.headers.get("content-type", "")
    if not is_text(content_type, response.body):
        return None
    text = decode_text(response.body, content_type)
    if is_html(content_type, text):
        title, text = page_of_html(text)
        return Page(url=url, title=title, text=text)
    return Page(url=url, title="", text=text)
