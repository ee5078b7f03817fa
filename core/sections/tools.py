"""The tools of the policy."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from core.sections.base import Section
from core.sections.guard import GuardConfig
from core.sections.providers import (
    BraveConfig,
    DownloadsConfig,
    FallbackConfig,
    FetchConfig,
    JinaConfig,
    PageNames,
    SearchNames,
    SearxngConfig,
    SerpApiConfig,
    SerperConfig,
    TavilyConfig,
)
from core.sections.served import ServedConfig
from core.sections.summariser import SummariserConfig


class AgesConfig(Section):
    """Hours after which a kept answer is asked for again, in `tools.mode=live` only."""

    search: float = Field(24 * 7.0, gt=0)
    image_search: float = Field(24 * 30.0, gt=0)
    page: float = Field(24 * 30.0, gt=0)
    summary: float = Field(24 * 90.0, gt=0)
    nothing: float = Field(1.0, gt=0)
    """Of "nothing found" and "no such page"."""


class ToolsConfig(Section):
    mode: Literal["live", "record", "replay"] = "live"
    """record: keep all that the tools gave, failures too; replay: give it again, no network."""
    on_miss: Literal["fail", "empty", "nearest"] = "fail"
    """What a replay does when a call was not recorded: a tool failure, "nothing found", or the
    answer to the recorded query that is most alike, marked as such."""
    store: str | None = None
    """Folder of what the tools have fetched; None: runs/<name>/store. Runs may share one."""
    max_store_gib: float = Field(20.0, gt=0)
    """Above it the least recently used entries go; images in use stay."""
    ttl_hours: AgesConfig = AgesConfig()
    episode_deadline_s: float = Field(300.0, gt=0)
    """Seconds that one episode may wait for its tools in all."""
    search: SearchNames = ("nano",)
    """Providers of the text search, in the order in which they are asked."""
    image_search: SearchNames = ("nano",)
    pages: PageNames = ("nano",)
    """Readers of pages, in the order in which they are asked."""
    corpus: str | None = None
    """For the provider `local`: a corpus that `gensearcher corpus build` wrote."""
    top_k: int = Field(3, ge=1, le=20)
    """Results of one query, and images of one image search."""
    max_images_per_search: int = Field(3, ge=1, le=5)
    timeout_s: float = Field(30.0, gt=0)
    """Of one call of a tool, with all its tries."""
    guard: GuardConfig = GuardConfig()
    fallback: FallbackConfig = FallbackConfig()
    downloads: DownloadsConfig = DownloadsConfig()
    serper: SerperConfig = SerperConfig()
    brave: BraveConfig = BraveConfig()
    tavily: TavilyConfig = TavilyConfig()
    serpapi: SerpApiConfig = SerpApiConfig()
    searxng: SearxngConfig = SearxngConfig()
    jina: JinaConfig = JinaConfig()
    fetch: FetchConfig = FetchConfig()
    summariser: SummariserConfig | None = None
    """Answers from a page that is browsed; None: the passages most like the query (BM25)."""

    @property
    def providers(self) -> tuple[str, ...]:
        """Every provider that some tool may ask, once."""
        return tuple(dict.fromkeys((*self.search, *self.image_search, *self.pages)))

    @property
    def needed_keys(self) -> Mapping[str, str]:
        """Provider (or "summariser") -> the environment variable that its key must stand in.

        A replay asks nobody.
        """
        if self.mode == "replay":
            return {}
        keyed = {
            "serper": self.serper.api_key_env,
            "brave": self.brave.api_key_env,
            "tavily": self.tavily.api_key_env,
            "serpapi": self.serpapi.api_key_env,
        }
        needed = {name: keyed[name] for name in self.providers if name in keyed}
        reader = self.summariser
        if reader is not None and reader.served is None and reader.api_key_env is not None:
            needed["summariser"] = reader.api_key_env
        return needed

    @property
    def served_summariser(self) -> ServedConfig | None:
        """The model that the run serves for its tools, if it does. A replay asks nobody."""
        if self.summariser is None or self.mode == "replay":
            return None
        return self.summariser.served

    @model_validator(mode="after")
    def _providers_are_told_where_to_look(self) -> Self:
        if "searxng" in self.providers and self.searxng.base_url is None:
            raise ValueError(
                "tools.searxng.base_url is not set; give the address of your SearXNG, "
                "e.g. http://localhost:8888"
            )
        if "local" in self.providers and self.corpus is None:
            raise ValueError(
                "tools.corpus is not set; name a corpus that `gensearcher corpus build` wrote"
            )
        return self
