"""A toolbox whose results are set beforehand."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from core.records import ImageRef, RolloutId, ToolCall, ToolResult
from tests.fakes.failures import FailureScript

Answerer = ToolResult | Callable[[ToolCall], ToolResult]


class FakeToolbox:
    """Implements core.protocols.Toolbox; `fail_times` is keyed by tool name.

    Events: ("call", rollout_id, name, arguments), ("pin", ordinal), ("release", ordinals).
    """

    def __init__(
        self,
        results: Mapping[str, Answerer] | None = None,
        *,
        fail_times: Mapping[Hashable, int] | None = None,
    ) -> None:
        self._results = dict(results or {})
        self._failures = FailureScript(fail_times)
        self.unpinnable: set[int] = set()
        self.events: list[tuple[Any, ...]] = []

    async def call(self, call: ToolCall, *, rollout_id: RolloutId) -> ToolResult:
        assert isinstance(rollout_id, RolloutId)
        assert isinstance(call.arguments, str), "arguments are raw JSON text"
        self.events.append(("call", rollout_id, call.name, call.arguments))
        if self._failures.should_fail(call.name):
            return ToolResult(text="search unavailable", error=f"scripted fault of {call.name}")
        answer = self._results.get(call.name)
        if answer is None:
            return ToolResult(text=f"There is no tool {call.name!r}.")
        return answer(call) if callable(answer) else answer

    async def pin(self, ordinal: int, images: Sequence[ImageRef]) -> bool:
        self.events.append(("pin", ordinal))
        return ordinal not in self.unpinnable

    async def release(self, ordinals: Sequence[int]) -> None:
        self.events.append(("release", tuple(ordinals)))
