"""The services that the tools can ask: where, with which key, how fast, and at what list price.

Rates and prices are those of the services' paid entry plans; put in those of your own plan.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from core.sections.base import Section

T = TypeVar("T")

Url = Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of the environment variable that holds a key."""


def _one_as_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _distinct(names: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a provider stands twice in the list")
    return names


WebSearch = Literal["serper", "brave", "tavily", "serpapi", "searxng"]
SearchNames = Annotated[
    tuple[Literal["nano", "local"] | WebSearch, ...],
    BeforeValidator(_one_as_many),
    AfterValidator(_distinct),
    Field(min_length=1),
]
"""In the order in which they are asked; a single name may stand alone."""
PageNames = Annotated[
    tuple[Literal["nano", "local", "jina", "fetch"], ...],
    BeforeValidator(_one_as_many),
    AfterValidator(_distinct),
    Field(min_length=1),
]


class ServiceConfig(Section):
    """How a service wants to be asked."""

    per_second: float = Field(10.0, gt=0)
    """Requests that may begin in one second, retries included."""
    max_in_flight: int = Field(16, ge=1)
    timeout_s: float = Field(8.0, gt=0)
    """Of one try."""
    max_tries: int = Field(3, ge=1)


class PaidConfig(ServiceConfig):
    base_url: Url | None = None
    cost_usd: float = Field(0.0, ge=0)


class SerperConfig(PaidConfig):
    base_url: Url = "https://google.serper.dev"
    api_key_env: Variable = "SERPER_API_KEY"
    per_second: float = Field(50.0, gt=0)
    max_in_flight: int = Field(32, ge=1)
    cost_usd: float = Field(0.001, ge=0)
    """Of one credit."""


class BraveConfig(PaidConfig):
    base_url: Url = "https://api.search.brave.com"
    api_key_env: Variable = "BRAVE_API_KEY"
    per_second: float = Field(20.0, gt=0)
    cost_usd: float = Field(0.005, ge=0)
    """Of one request."""


class TavilyConfig(PaidConfig):
    base_url: Url = "https://api.tavily.com"
    api_key_env: Variable = "TAVILY_API_KEY"
    per_second: float = Field(16.0, gt=0)
    cost_usd: float = Field(0.008, ge=0)
    """Of one basic search."""


class SerpApiConfig(PaidConfig):
    base_url: Url = "https://serpapi.com"
    api_key_env: Variable = "SERPAPI_API_KEY"
    per_second: float = Field(5.0, gt=0)
    timeout_s: float = Field(15.0, gt=0)
    cost_usd: float = Field(0.015, ge=0)
    """Of one search."""


class SearxngConfig(PaidConfig):
    base_url: Url | None = None
    """Of your own installation; it has no default and needs no key."""
    cost_usd: float = Field(0.0, ge=0)
    """Of one search."""


class JinaConfig(PaidConfig):
    base_url: Url = "https://r.jina.ai"
    api_key_env: Variable = "JINA_API_KEY"
    """The reader works without a key too, at `per_second_without_key`."""
    per_second: float = Field(8.0, gt=0)
    per_second_without_key: float = Field(20 / 60, gt=0)
    timeout_s: float = Field(20.0, gt=0)
    cost_usd: float = Field(0.05, ge=0)
    """Of a million tokens of page text."""


class FetchConfig(ServiceConfig):
    """Reads pages itself, from whatever host a result or the policy names."""

    per_second: float = Field(50.0, gt=0)
    max_in_flight: int = Field(32, ge=1)
    timeout_s: float = Field(10.0, gt=0)
    max_tries: int = Field(2, ge=1)
    max_mib: float = Field(4.0, gt=0, le=64)
    """A longer page is not read."""


class DownloadsConfig(Section):
    """Images that a search of the web found."""

    timeout_s: float = Field(8.0, gt=0)
    """Of one image."""
    max_in_flight: int = Field(32, ge=1)
    max_mib: float = Field(16.0, gt=0, le=256)
    min_side: int = Field(64, ge=1)
    """Pixels; smaller ones are icons and no references."""


class FallbackConfig(Section):
    """When a provider of an ordered list is passed over."""

    failures_to_rest: int = Field(3, ge=1)
    """In a row."""
    rest_s: float = Field(30.0, gt=0)
