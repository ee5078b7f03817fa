"""The providers of the tools, made from a Config where the search actor runs.

In: `config.tools`, the run's folder, keys. Out: one chain per Protocol, each a list in the order of
fall-back. Addresses of services come from the operator's config and may be on a private network;
addresses of pages and images come from strangers and are fetched through the guarded client only.
Raises ConfigError for a corpus that is not there.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.chat_completions import OpenAIChat, Price
from core.config import Config
from core.endpoint import Endpoint, Limits
from core.errors import ToolError
from core.protocols import HttpClient, ImageStore
from core.sections.providers import PaidConfig, ServiceConfig
from core.sections.summariser import SummariserConfig
from core.sections.tools import ToolsConfig
from envs.corpus import Corpus
from envs.guard import Guard, allowed
from envs.http import AiohttpClient, operators_client
from envs.images import FileImageStore
from envs.provider import (
    ImageSearch,
    PageReader,
    Pay,
    SearchProvider,
    Summariser,
    TextSearch,
    nobody_pays,
)
from envs.providers.brave import Brave
from envs.providers.chain import ImageChain, PageChain, RestLimits, TextChain
from envs.providers.downloads import DownloadLimits, ImageDownloader, WebImages
from envs.providers.fetch import Fetch
from envs.providers.jina import Jina
from envs.providers.local import CopiedImages
from envs.providers.network import Network
from envs.providers.searxng import Searxng
from envs.providers.serpapi import SerpApi
from envs.providers.serper import Serper
from envs.providers.service import Service
from envs.providers.tavily import Tavily
from envs.summariser import ModelSummariser, SummaryLimits

CORPUS = "corpus.sqlite"
"""Of the nano world, in the run's folder."""
IMAGES = "images"
"""A corpus has this folder of its images beside it, and so has a run."""
DEADLINE_SHARE = 0.9
"""Of the tool call's time; what is left is for reading what came."""
TRY_SHARE = 0.8
"""Of an operation's time at most for one try, so that a host that is silent is known as such."""
MIB = 1 << 20

ON_DISK = frozenset({"nano", "local"})

WebSearchProvider = Serper | Brave | Tavily | SerpApi | Searxng


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """One chain per Protocol of envs.provider."""

    search: TextChain
    image_search: ImageChain
    pages: PageChain
    summariser: Summariser | None
    clients: tuple[AiohttpClient, ...]

    async def close(self) -> None:
        """Ends every connection."""
        for client in self.clients:
            await client.close()


def open_providers(
    config: Config,
    run_dir: Path,
    keys: Mapping[str, str],
    *,
    images: ImageStore,
    count: Callable[[str], None] = lambda name: None,
    pay: Pay = nobody_pays,
) -> Providers:
    """`keys`: by provider; `images`: takes what is downloaded; `count`: see `Chain`,
    `ImageDownloader` and the readers of pages.

    Opens on any thread; use it on one event loop.
    """
    return _Opening(config, run_dir, keys, images=images, pay=pay).providers(count)


class _Opening:
    """Makes every provider once, so that its rate holds for all that it is asked for."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        keys: Mapping[str, str],
        *,
        images: ImageStore,
        pay: Pay,
    ) -> None:
        tools = config.tools
        self._tools = tools
        self._run_dir = run_dir
        self._run_name = config.run.name
        self._keys = keys
        self._num_actors = config.cluster.search_actors  # they ask the same services side by side
        self._operator = operators_client()
        self._guarded = AiohttpClient(
            allow=tools.guard.allow,
            blocked_hosts=tools.guard.blocked_hosts,
            first_byte_s=tools.guard.first_byte_s,
        )
        self._network = Network()
        self._images = images
        self._pay = pay
        self._web_searches = functools.cache(self._open_web_search)
        self._corpora = functools.cache(self._open_corpus)

    def providers(self, count: Callable[[str], None]) -> Providers:
        tools = self._tools
        downloader = self._open_downloader(count)
        rest = RestLimits(
            failures_to_rest=tools.fallback.failures_to_rest, rest_s=tools.fallback.rest_s
        )
        images = [(name, self._image_search(name, downloader)) for name in tools.image_search]
        return Providers(
            search=TextChain(
                [(name, self._search(name)) for name in tools.search], limits=rest, count=count
            ),
            image_search=ImageChain(images, limits=rest, count=count),
            pages=PageChain(
                [(name, self._pages(name, count)) for name in tools.pages],
                limits=rest,
                count=count,
            ),
            summariser=self._open_summariser(tools.summariser) if tools.summariser else None,
            clients=(self._operator, self._guarded),
        )

    def _search(self, name: str) -> TextSearch:
        return self._corpora(name) if name in ON_DISK else self._web_searches(name)

    def _image_search(self, name: str, downloader: ImageDownloader) -> ImageSearch:
        if name not in ON_DISK:
            return WebImages(self._web_searches(name), downloader)
        corpus = self._corpora(name)
        if name == "nano":
            return corpus
        theirs = FileImageStore(corpus_path(self._tools).parent / IMAGES)
        return CopiedImages(corpus, theirs=theirs, ours=self._images)

    def _pages(self, name: str, count: Callable[[str], None]) -> PageReader:
        if name in ON_DISK:
            return self._corpora(name)
        if name == "jina":
            return self._open_jina(count)
        section = self._tools.fetch
        endpoint = self._endpoint(name, section, over=self._guarded)
        max_bytes = int(section.max_mib * MIB)
        return Fetch(endpoint, name=name, max_bytes=max_bytes, count=count, network=self._network)

    def _open_corpus(self, name: str) -> SearchProvider:
        return Corpus(self._run_dir / CORPUS if name == "nano" else corpus_path(self._tools))

    def _open_web_search(self, name: str) -> WebSearchProvider:
        kinds: dict[str, tuple[type[WebSearchProvider], PaidConfig]] = {
            "serper": (Serper, self._tools.serper),
            "brave": (Brave, self._tools.brave),
            "tavily": (Tavily, self._tools.tavily),
            "serpapi": (SerpApi, self._tools.serpapi),
            "searxng": (Searxng, self._tools.searxng),
        }
        kind, section = kinds[name]
        return kind(self._service(name, section))

    def _open_jina(self, count: Callable[[str], None]) -> Jina:
        section = self._tools.jina
        if "jina" not in self._keys:
            section = section.model_copy(update={"per_second": section.per_second_without_key})
        allow, blocked = self._tools.guard.allow, self._tools.guard.blocked_hosts
        guard = Guard(
            allow=allowed(allow), blocked_hosts=frozenset(host.lower() for host in blocked)
        )
        return Jina(self._service("jina", section), guard=guard, count=count)

    def _service(self, name: str, section: PaidConfig) -> Service:
        return Service(
            name=name,
            endpoint=self._endpoint(name, section),
            base_url=section.base_url or "",
            api_key=self._keys.get(name, ""),
            cost_usd=section.cost_usd,
            pay=self._pay,
        )

    def _open_summariser(self, section: SummariserConfig) -> ModelSummariser:
        served = section.served
        model = OpenAIChat(
            self._endpoint("summariser", section, over=self._open_served() if served else None),
            base_url="served:" if served else section.base_url,
            model=served.path if served else section.model,
            api_key=self._keys.get("summariser", ""),
            error=ToolError,
            price=Price(prompt_usd=section.prompt_usd, completion_usd=section.completion_usd),
            provider="served" if served else "openai",
        )
        return ModelSummariser(
            model,
            limits=SummaryLimits(
                max_part_tokens=section.max_page_tokens,
                max_parts=section.max_parts,
                max_answer_tokens=section.max_answer_tokens,
            ),
            pay=self._pay,
        )

    def _open_served(self) -> HttpClient:
        from actors.served_model import (  # Ray is loaded only where it is needed
            ServedHttp,
            served_app_name,
        )

        return ServedHttp(served_app_name("summariser", run_name=self._run_name))

    def _open_downloader(self, count: Callable[[str], None]) -> ImageDownloader:
        section = self._tools.downloads
        limits = DownloadLimits(
            timeout_s=section.timeout_s,
            deadline_s=self._share_s(len(self._tools.image_search)) / 2,
            max_bytes=int(section.max_mib * MIB),
            max_in_flight=section.max_in_flight,
            min_side=section.min_side,
        )
        return ImageDownloader(
            self._guarded, self._images, limits=limits, count=count, network=self._network
        )

    def _endpoint(
        self, name: str, section: ServiceConfig, *, over: HttpClient | None = None
    ) -> Endpoint:
        """An actor's share of the rate; a deadline that leaves time for the rest of every list."""
        tools = self._tools
        readers = (*tools.pages, *(["summariser"] if tools.summariser else []))
        lists = [
            (len(tools.search), tools.search),
            (2 * len(tools.image_search), tools.image_search),  # then its downloads
            (len(readers), readers),
        ]
        shares = [self._share_s(parts) for parts, names in lists if name in names]
        limits = Limits(
            per_second=section.per_second / self._num_actors,
            max_in_flight=math.ceil(section.max_in_flight / self._num_actors),
            timeout_s=min(section.timeout_s, TRY_SHARE * min(shares)),
            deadline_s=min(shares),
            max_tries=section.max_tries,
        )
        return Endpoint(over or self._operator, name=name, limits=limits)

    def _share_s(self, parts: int) -> float:
        """Of the time of one tool call, when `parts` may have to follow each other in it."""
        return DEADLINE_SHARE * self._tools.timeout_s / parts


def corpus_path(tools: ToolsConfig) -> Path:
    """`tools.corpus` is the file, or the folder that it stands in."""
    path = Path(tools.corpus or "")
    return path / CORPUS if path.is_dir() else path
