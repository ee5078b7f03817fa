"""The tools of the policy."""

from collections.abc import Mapping
from typing import Self

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


class ToolsConfig(Section):
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
    cache_path: str | None = None
    """SQLite file of the tool cache; None: runs/<name>/tools.sqlite."""
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

    @property
    def providers(self) -> tuple[str, ...]:
        """Every provider that some tool may ask, once."""
        return tuple(dict.fromkeys((*self.search, *self.image_search, *self.pages)))

    @property
    def needed_keys(self) -> Mapping[str, str]:
        """Provider -> the environment variable that its key must stand in."""
        keyed = {
            "serper": self.serper.api_key_env,
            "brave": self.brave.api_key_env,
            "tavily": self.tavily.api_key_env,
            "serpapi": self.serpapi.api_key_env,
        }
        return {name: keyed[name] for name in self.providers if name in keyed}

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
