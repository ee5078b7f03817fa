"""What a rollout worker reports of itself. Imports no engine: the controller reads it too."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters since the engine started, and two gauges of this moment."""

    num_running: int
    """Requests in flight now."""
    kv_usage: float
    """Share of the KV cache in use now, in [0, 1]."""
    num_requests: int
    """Finished requests."""
    num_prompt_tokens: int
    """Image tokens counted."""
    num_cached_tokens: int
    """Of the prompt tokens, those whose KV came from the prefix cache."""
    num_sampled_tokens: int
    generate_s: float
    """Seconds that requests took, summed over requests that ran side by side."""
    num_updates: int
    """Weight updates applied."""
    update_s: float
    """Seconds that sampling stood still for them."""
