"""A chat model that answers the policy's question from a page."""

from pydantic import Field

from core.sections.providers import ServiceConfig, Url, Variable


class SummariserConfig(ServiceConfig):
    """Any OpenAI-compatible endpoint; one that the run's own cluster serves is as good."""

    base_url: Url = "https://api.openai.com/v1"
    model: str = Field(min_length=1)
    api_key_env: Variable | None = "OPENAI_API_KEY"
    """None: the endpoint takes no key."""
    max_page_tokens: int = Field(24_000, ge=256)
    """Estimated tokens of one part; a longer page is split, and the parts answered side by side."""
    max_parts: int = Field(8, ge=1)
    """The rest of a longer page is not read."""
    max_answer_tokens: int = Field(1024, ge=16)
    """Of one part."""
    timeout_s: float = Field(30.0, gt=0)
    prompt_usd: float = Field(0.0, ge=0)
    """Of a million tokens of pages."""
    completion_usd: float = Field(0.0, ge=0)
    """Of a million tokens of answers."""
