"""An endpoint that plays the policy's part in an evaluation (`gensearcher eval --agent openai`)."""

from pydantic import Field

from core.sections.base import Section


class AgentConfig(Section):
    """OpenAI-compatible chat completions; the model must see images."""

    model: str = ""
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str = ""
    """The environment variable with the key; "": the endpoint asks for none."""
    timeout_s: float = Field(300.0, gt=0)
    """Of one try."""
    deadline_s: float = Field(1200.0, gt=0)
    """Of one turn, with its waits and all its tries."""
    max_tries: int = Field(5, ge=1)
    max_in_flight: int = Field(16, ge=1)
    per_second: float = Field(20.0, gt=0)
    """Turns that may begin in one second."""
    prompt_usd: float = Field(0.0, ge=0)
    """Dollars for a million prompt tokens, as your provider's list says."""
    completion_usd: float = Field(0.0, ge=0)
