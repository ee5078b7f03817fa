"""The aiohttp application: all services under one address, each below a path of its own.

    /serper/search  /serper/images          POST, X-API-KEY
    /brave/res/v1/{web,images}/search       GET, X-Subscription-Token
    /tavily/search                          POST, Bearer
    /serpapi/search.json                    GET, api_key
    /searxng/search                         GET
    /jina/                                  POST {"url"}, or GET /jina/<url>; Bearer or none
    /page/<address>  /img/<sha256>          the web that the results point to
    /fake-web/calls  /fake-web/faults       counters; GET, PUT {"serper": {"kind": "status"}}

A wrong key is answered as the service does it; the right one is `KEY`.
"""

import base64
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from html import escape
from typing import Any, Literal
from urllib.parse import quote, unquote

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from core.protocols import ImageStore
from core.records import FoundImage
from envs.fake_web import shapes
from envs.fake_web.faults import HOP, Fault, changed, instead
from envs.provider import SearchHit, SearchProvider

KEY = "fake-key"
SERVICES = ("serper", "brave", "tavily", "serpapi", "searxng", "jina", "page", "img")
DEFAULT_RESULTS = 10
BEST_IMAGES = 3
"""Images that come first, as a search of the corpus for so many would give them."""
Links = Literal["absolute", "bare"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FAULTS = TypeAdapter(dict[Literal[SERVICES], Fault])  # type: ignore[valid-type]


class FakeWeb:
    """`faults` may be changed while it serves, from any thread."""

    def __init__(
        self, provider: SearchProvider, images: ImageStore, *, links: Links = "absolute"
    ) -> None:
        """`links`: "bare" leaves page addresses as the corpus has them, e.g. p0012, which is what
        the nano policy learned to read; "absolute" are those of this server."""
        self._provider = provider
        self._store = images
        self._links = links
        self._shown: dict[str, FoundImage] = {}
        self.faults: dict[str, Fault] = {}
        self.silent_engines: list[list[str]] = []
        """Which engines SearXNG says gave no answer, each with the reason."""
        self.jina_is_plain = False
        """As an installation whose reader knows no JSON form."""
        self.calls: Counter[str] = Counter()
        """Requests by path, whatever came of them; also of the service as a whole."""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._befall])
        app.add_routes(
            [
                web.post("/serper/search", self._serper),
                web.post("/serper/images", self._serper),
                web.get("/brave/res/v1/web/search", self._brave),
                web.get("/brave/res/v1/images/search", self._brave),
                web.post("/tavily/search", self._tavily),
                web.get("/serpapi/search.json", self._serpapi),
                web.get("/searxng/search", self._searxng),
                web.post("/jina/", self._jina),
                web.get("/jina/{url:.+}", self._jina),
                web.get("/page/{name:.+}", self._page),
                web.get("/img/{sha256}", self._image),
                web.get("/fake-web/calls", self._say_calls),
                web.get("/fake-web/faults", self._say_faults),
                web.put("/fake-web/faults", self._set_faults),
            ]
        )
        return app

    @web.middleware
    async def _befall(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Counts, and lets the service's fault happen."""
        service = request.path.split("/")[1]
        if service not in SERVICES:
            return await handler(request)
        self.calls[service] += 1
        self.calls[request.path] += 1
        fault = None if HOP in request.query else self._take_fault(service)
        if fault is None:
            return await handler(request)
        response = await instead(fault, request, service=service)
        if response is not None:
            return response
        answer = await handler(request)
        if not isinstance(answer, web.Response):
            return answer
        if fault.kind == "null_lists" and answer.content_type == "application/json":
            return web.json_response(shapes.with_null_lists(json.loads(answer.body or b"null")))
        return changed(fault, answer)

    def _take_fault(self, service: str) -> Fault | None:
        fault = self.faults.get(service)
        if fault is not None and fault.times is not None:
            left = fault.times - 1
            self.faults.pop(service)
            if left > 0:
                self.faults[service] = replace(fault, times=left)
        return fault

    async def _serper(self, request: web.Request) -> web.Response:
        if request.headers.get("X-API-KEY") != KEY:
            return _json({"message": "Unauthorized.", "statusCode": 403}, status=403)
        body = await request.json()
        query, num = str(body["q"]), int(body.get("num", DEFAULT_RESULTS))
        if request.path.endswith("/images"):
            return _json(shapes.serper_images(query, await self._images(request, query, num)))
        return _json(shapes.serper_pages(query, await self._hits(request, query, num)))

    async def _brave(self, request: web.Request) -> web.Response:
        if request.headers.get("X-Subscription-Token") != KEY:
            error = {"code": "SUBSCRIPTION_TOKEN_INVALID", "detail": "The token is invalid."}
            return _json({"type": "ErrorResponse", "error": error}, status=422)
        query = request.query["q"]
        num = int(request.query.get("count", DEFAULT_RESULTS))
        if len(query) > 400 or len(query.split()) > 50:
            error = {"code": "VALIDATION", "detail": "Unable to validate request parameter(s)"}
            return _json({"type": "ErrorResponse", "error": error}, status=422)
        if "/images/" in request.path:
            return _json(shapes.brave_images(query, await self._images(request, query, num)))
        return _json(shapes.brave_pages(query, await self._hits(request, query, num)))

    async def _tavily(self, request: web.Request) -> web.Response:
        if not _has_bearer(request):
            return _json({"detail": {"error": "Unauthorized: missing or invalid API key."}}, 401)
        body = await request.json()
        query, num = str(body["query"]), int(body.get("max_results", 5))
        hits = await self._hits(request, query, num)
        images = (
            await self._images(request, query, DEFAULT_RESULTS) if body["include_images"] else []
        )
        described = bool(body.get("include_image_descriptions"))
        return _json(shapes.tavily(query, hits, images, described=described))

    async def _serpapi(self, request: web.Request) -> web.Response:
        if request.query.get("api_key") != KEY:
            return _json({"error": "Invalid API key."}, status=401)
        query = request.query["q"]
        if request.query.get("engine") == "google_images":
            images = await self._images(request, query, DEFAULT_RESULTS)
            return _json(shapes.serpapi_images(query, images))
        hits = await self._hits(request, query, DEFAULT_RESULTS)
        return _json(shapes.serpapi_pages(query, hits))

    async def _searxng(self, request: web.Request) -> web.Response:
        if request.query.get("format") != "json":
            return web.Response(text="<html></html>", content_type="text/html")
        query = request.query["q"]
        if request.query.get("categories") != "images":
            hits = await self._hits(request, query, DEFAULT_RESULTS)
            return _json(self._metasearch(query, [shapes.searxng_page(hit) for hit in hits]))
        images = await self._images(request, query, DEFAULT_RESULTS)
        found = [shapes.searxng_image(image) for image in images]
        for number, image in enumerate(found):
            image["img_src"] = self._as_searxng_writes_it(image["img_src"], number)
        return _json(self._metasearch(query, found))

    def _metasearch(self, query: str, results: list[shapes.Json]) -> shapes.Json:
        return shapes.searxng(query, results, silent=self.silent_engines)

    def _as_searxng_writes_it(self, url: str, number: int) -> str:
        """One in three as a data: URL, one without its scheme: engines give both."""
        if number % 3 == 0:
            data = self._store.get(self._shown[url.rpartition("/")[2]].ref)
            return f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return url.removeprefix("http:") if number % 3 == 1 else url

    async def _jina(self, request: web.Request) -> web.Response:
        if "Authorization" in request.headers and not _has_bearer(request):
            return _json({"code": 401, "status": 40103, "message": "Invalid API key"}, status=401)
        if request.method == "GET":
            url = request.match_info["url"]
        elif request.content_type == "application/json":
            url = str((await request.json())["url"])
        else:
            url = str((await request.post())["url"])
        page = (await self._provider.page(self._own_address(request, url))).value
        if page is None:
            message = "Domain could not be resolved"
            return _json({"code": 422, "status": 42206, "message": message}, status=422)
        shown = type(page)(url=url, title=page.title, text=page.text)
        wants_json = "application/json" in request.headers.get("Accept", "")
        if wants_json and not self.jina_is_plain:
            return _json(shapes.jina_json(shown))
        return web.Response(text=shapes.jina_text(shown), content_type="text/plain")

    async def _page(self, request: web.Request) -> web.Response:
        page = (await self._provider.page(unquote(request.match_info["name"]))).value
        if page is None:
            return web.Response(status=404, text="<h1>Not found</h1>", content_type="text/html")
        title, text = escape(page.title), escape(page.text)
        body = f"<html><head><title>{title}</title></head><body><p>{text}</p></body></html>"
        return web.Response(text=body, content_type="text/html")

    async def _image(self, request: web.Request) -> web.Response:
        image = self._shown.get(request.match_info["sha256"])
        if image is None:
            return web.Response(status=404)
        return web.Response(body=self._store.get(image.ref), content_type=image.ref.media_type)

    async def _hits(self, request: web.Request, query: str, num: int) -> Sequence[SearchHit]:
        found = (await self._provider.search(query, k=num)).value
        return [
            SearchHit(url=self._address(request, hit.url), title=hit.title, snippet=hit.snippet)
            for hit in found
        ]

    async def _images(
        self, request: web.Request, query: str, num: int
    ) -> Sequence[shapes.ShownImage]:
        # A corpus draws the order of its best k, so the best few are asked for first.
        best = (await self._provider.image_search(query, k=min(num, BEST_IMAGES))).value
        more = (await self._provider.image_search(query, k=num)).value
        found = (*best, *(image for image in more if image not in best))
        self._shown.update({image.ref.sha256: image for image in found})
        return [
            shapes.ShownImage(
                url=f"{request.url.origin()}/img/{image.ref.sha256}",
                title=image.title,
                page_url=self._address(request, image.page_url),
                width=image.ref.width,
                height=image.ref.height,
            )
            for image in found
        ]

    def _address(self, request: web.Request, url: str) -> str:
        return url if self._links == "bare" else f"{request.url.origin()}/page/{quote(url)}"

    def _own_address(self, request: web.Request, url: str) -> str:
        """What the corpus calls the page of this address."""
        return unquote(url.removeprefix(f"{request.url.origin()}/page/"))

    async def _say_calls(self, request: web.Request) -> web.Response:
        return _json(dict(self.calls))

    async def _say_faults(self, request: web.Request) -> web.Response:
        return web.Response(body=_FAULTS.dump_json(self.faults), content_type="application/json")

    async def _set_faults(self, request: web.Request) -> web.Response:
        """All of them at once; `{}` ends them."""
        try:
            self.faults = dict(_FAULTS.validate_json(await request.read()))
        except ValidationError as error:
            return _json({"error": str(error)}, status=400)
        return await self._say_faults(request)


def _has_bearer(request: web.Request) -> bool:
    return bool(request.headers.get("Authorization") == f"Bearer {KEY}")


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)
