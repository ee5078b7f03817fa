"""The judges: which one, how it is asked, and the model that a run may serve for it."""

from typing import Literal, Self

from pydantic import Field, model_validator

from core.sections.base import Section
from core.sections.served import ServedConfig


class JudgeConfig(Section):
    kind: Literal["pixels", "openai", "gemini", "served"] = "pixels"
    model: str = ""
    """The endpoint's name of the model; unused for pixels and served."""
    base_url: str = ""
    """Of `openai` and `gemini`; "": the provider's own. May be a private address."""
    api_key_env: str | None = None
    """Variable that holds the key. None: OPENAI_API_KEY or GEMINI_API_KEY; "": no key is sent."""
    timeout_s: float = Field(60.0, gt=0)
    """Of one try."""
    deadline_s: float = Field(300.0, gt=0)
    """Of one vote, with its waits and all its tries."""
    max_tries: int = Field(4, ge=1)
    """Of one vote: failed exchanges and replies that are no verdict. Nothing above asks again."""
    max_in_flight: int = Field(16, ge=1)
    per_second: float = Field(50.0, gt=0)
    """Calls that may begin in one second."""
    max_tokens: int = Field(1024, ge=64)
    """Of one reply; a longer one is cut, and then refused."""
    max_side: int = Field(1024, ge=32)
    """Images are shrunk to this longest side before they are sent."""
    json_schema: bool = True
    """Ask the endpoint to decode by the reply's schema; one that refuses is asked without it."""
    votes: int = Field(1, ge=1, le=15)
    """Verdicts that are averaged into one."""
    prompt_file: str | None = None
    """Rubrics of your own in the place of ours: a YAML or JSON file (docs/rewards.md)."""
    prompt_usd: float = Field(0.0, ge=0)
    """Dollars for a million prompt tokens, as your provider's list says."""
    completion_usd: float = Field(0.0, ge=0)
    served: ServedConfig = ServedConfig()
    canary_every: int = Field(0, ge=0)
    """Steps between two askings of the canary set, which shows a judge that drifts; 0: never."""
    canary_file: str | None = None
    """JSON rows {prompt, image, ground_truth}; None: rows of the nano world."""
    canary_threshold: float = Field(0.1, gt=0, le=1)
    """An alarm is logged when the mean score moves further than this from the first asking."""

    @property
    def key_variable(self) -> str | None:
        """The environment variable that must be set for this judge; None: it needs none."""
        default = {"openai": "OPENAI_API_KEY", "gemini": "GEMINI_API_KEY"}.get(self.kind)
        variable = default if self.api_key_env is None else self.api_key_env
        return variable if default and variable else None

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if self.kind in ("openai", "gemini") and not self.model:
            raise ValueError(f"kind {self.kind} needs a model; set judge.model")
        if self.kind == "served" and not self.served.path:
            raise ValueError("kind served needs a model; set judge.served.path")
        return self
