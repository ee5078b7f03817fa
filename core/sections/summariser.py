"""A chat model that answers the policy's question from a page."""

from typing import Self

from pydantic import Field, model_validator

from core.sections.providers import ServiceConfig, Url, Variable
from core.sections.served import ServedConfig

PROMPT_TOKENS = 512
"""About what stands around the part of a page in one question."""


class ServedReaderConfig(ServedConfig):
    max_images: int = Field(0, ge=0)
    """It is shown none, so a model that reads text only will do."""


class SummariserConfig(ServiceConfig):
    """Any OpenAI-compatible endpoint, or a model that the run serves itself."""

    base_url: Url = "https://api.openai.com/v1"
    model: str = ""
    """The endpoint's name of the model."""
    api_key_env: Variable | None = "OPENAI_API_KEY"
    """None: the endpoint takes no key."""
    served: ServedReaderConfig | None = None
    """Served by the run itself; then there is no endpoint, and no key is needed."""
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

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if self.served is None and not self.model:
            raise ValueError(
                "a summariser needs a model; set tools.summariser.model, or "
                "tools.summariser.served.path for one that the run serves itself"
            )
        if self.served is not None and not self.served.path:
            raise ValueError("tools.summariser.served.path is not set; name a model's folder")
        return self

    @model_validator(mode="after")
    def _a_part_fits(self) -> Self:
        needed = self.max_page_tokens + self.max_answer_tokens + PROMPT_TOKENS
        if self.served is not None and needed > self.served.max_context:
            raise ValueError(
                f"tools.summariser.served.max_context {self.served.max_context} has no room for "
                f"max_page_tokens {self.max_page_tokens}, max_answer_tokens "
                f"{self.max_answer_tokens} and {PROMPT_TOKENS} of the question; raise it to "
                f"{needed} or lower tools.summariser.max_page_tokens"
            )
        return self
