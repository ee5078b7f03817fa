"""What a rollout worker reports of itself. Imports no engine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters since the engine started, and gauges of this moment."""

    num_running: int
    """Requests in flight now."""
    num_waiting: int
    """Of them, those that wait for room in the engine."""
    num_preempted: int
    """Of these, those that were running before and lost their place in the KV cache."""
    kv_usage: float | None
    """Share of the KV cache in use now, in [0, 1]; None when the engine does not tell."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What an engine says of this moment; nothing, where it cannot be asked."""

    num_waiting: int = 0
    num_preempted: int = 0
    kv_usage: float | None = None


@dataclass(slots=True)
class EngineCounts:
    """The running sums behind EngineStats."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    sampled_tokens: int = 0
    generate_s: float = 0.0
    updates: int = 0
    update_s: float = 0.0

    def add_request(
        self, *, prompt_tokens: int, cached_tokens: int, sampled_tokens: int, seconds: float
    ) -> None:
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens
        self.sampled_tokens += sampled_tokens
        self.generate_s += seconds

    def add_update(self, *, seconds: float) -> None:
        self.updates += 1
        self.update_s += seconds

    def stats(self, *, num_running: int, gauges: Gauges) -> EngineStats:
        return EngineStats(
            num_running=num_running,
            num_waiting=gauges.num_waiting,
            num_preempted=gauges.num_preempted,
            kv_usage=gauges.kv_usage,
            num_requests=self.requests,
            num_prompt_tokens=self.prompt_tokens,
            num_cached_tokens=self.cached_tokens,
            num_sampled_tokens=self.sampled_tokens,
            generate_s=self.generate_s,
            num_updates=self.updates,
            update_s=self.update_s,
        )
