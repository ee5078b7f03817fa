"""The loopback web of the tests, and providers over real HTTP that ask it.

with serving_on_a_thread(fake) as address:      # envs.fake_web.server
    asked = Asked(fake, address, store)
    await asked.search("brave").search("Torvi", k=3)
"""

from dataclasses import replace

from core.endpoint import Endpoint, Limits
from core.protocols import HttpClient, ImageStore
from envs.fake_web.app import KEY, FakeWeb
from envs.fake_web.faults import Fault
from envs.guard import Guard, allowed
from envs.http import AiohttpClient
from envs.provider import ImageSearch
from envs.providers.brave import Brave
from envs.providers.downloads import DownloadLimits, ImageDownloader, WebImages
from envs.providers.fetch import Fetch
from envs.providers.jina import Jina
from envs.providers.searxng import Searxng
from envs.providers.serpapi import SerpApi
from envs.providers.serper import Serper
from envs.providers.service import Service
from envs.providers.tavily import Tavily

SEARCHES = {
    "serper": Serper,
    "brave": Brave,
    "tavily": Tavily,
    "serpapi": SerpApi,
    "searxng": Searxng,
}
WebSearch = Serper | Brave | Tavily | SerpApi | Searxng

QUICK = Limits(
    per_second=1e6,
    max_in_flight=16,
    timeout_s=20.0,
    deadline_s=60.0,
    max_tries=3,
    first_pause_s=0.01,
)
"""Quick to try again; patient enough that a busy machine is not taken for a silent service."""
PRICE_USD = 0.001


def limits_for(fault: Fault, *, timeout_s: float = 0.5) -> Limits:
    """Impatient only with a service that is silent on purpose."""
    return replace(QUICK, timeout_s=timeout_s) if fault.kind.startswith("slow") else QUICK


class Asked:
    """Providers of one fake web, each over an endpoint of its own; `close` it."""

    def __init__(self, fake: FakeWeb, address: str, store: ImageStore) -> None:
        self.fake = fake
        self.address = address
        self.http = AiohttpClient(may_connect=lambda peer: peer == "127.0.0.1")
        self._store = store
        self.counted: list[str] = []
        """By the readers of pages."""

    def search(self, name: str, *, key: str = KEY, limits: Limits = QUICK) -> WebSearch:
        return SEARCHES[name](self._service(name, key, limits))

    def images(self, name: str, *, limits: Limits = QUICK) -> ImageSearch:
        downloads = DownloadLimits(timeout_s=20.0, deadline_s=60.0, max_bytes=1 << 20, min_side=32)
        downloader = ImageDownloader(self.http, self._store, limits=downloads)
        return WebImages(self.search(name, limits=limits), downloader)

    def jina(self, *, key: str = KEY, limits: Limits = QUICK) -> Jina:
        guard = Guard(allow=allowed([self.address.removeprefix("http://")]))
        return Jina(self._service("jina", key, limits), guard=guard, count=self.counted.append)

    def fetch(self, *, limits: Limits = QUICK, http: HttpClient | None = None) -> Fetch:
        endpoint = Endpoint(http or self.http, name="fetch", limits=limits)
        return Fetch(endpoint, name="fetch", max_bytes=1 << 20, count=self.counted.append)

    async def close(self) -> None:
        await self.http.close()

    def _service(self, name: str, key: str, limits: Limits) -> Service:
        return Service(
            name=name,
            endpoint=Endpoint(self.http, name=name, limits=limits),
            base_url=f"{self.address}/{name}",
            api_key=key,
            cost_usd=PRICE_USD,
        )
