"""Tool calls by name, cached, with a deadline, and counted.

In: a ToolCall from the policy. Out: always a ToolResult. The policy's mistakes are ordinary
results; a provider that is down or too slow is `error` with a text that tells the policy nothing
else. Errors of the image store pass through: they are not the provider's.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.errors import ToolError, boundary
from core.protocols import ToolSpec
from core.records import RolloutId, ToolCall, ToolResult
from envs.cache import ToolCache
from envs.tools import ArgumentsError, ProviderTool

logger = logging.getLogger(__name__)

UNAVAILABLE = "search unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCounters:
    """Since the toolbox was made."""

    calls: int
    bad_calls: int
    """Unknown tools and bad arguments."""
    hits: int
    """Calls answered from the cache."""
    coalesced: int
    """Calls that shared an equal one in flight."""
    fetches: int
    """Calls that reached the provider."""
    errors: int
    """Calls that the provider failed."""
    in_flight: int


class LocalToolbox:
    """Implements core.protocols.Toolbox in this process."""

    def __init__(
        self, tools: Sequence[ProviderTool[Any]], cache: ToolCache, *, timeout_s: float = 30.0
    ) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self._cache = cache
        self._timeout_s = timeout_s
        self._calls = self._bad_calls = self._errors = self._in_flight = 0

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the policy is told of the tools."""
        return tuple(tool.spec for tool in self._tools.values())

    async def call(self, call: ToolCall, *, rollout_id: RolloutId) -> ToolResult:
        started = time.monotonic()
        self._calls += 1
        self._in_flight += 1
        try:
            result = await self._call(call, rollout_id)
        finally:
            self._in_flight -= 1
        return replace(result, latency_s=time.monotonic() - started)

    def counters(self) -> ToolCounters:
        cache = self._cache.counters
        return ToolCounters(
            calls=self._calls,
            bad_calls=self._bad_calls,
            hits=cache.hits,
            coalesced=cache.coalesced,
            fetches=cache.misses,
            errors=self._errors,
            in_flight=self._in_flight,
        )

    async def _call(self, call: ToolCall, rollout_id: RolloutId) -> ToolResult:
        tool = self._tools.get(call.name)
        if tool is None:
            self._bad_calls += 1
            return ToolResult(text=f"there is no such tool; use {', '.join(self._tools)}")
        try:
            arguments = tool.read(call.arguments)
        except ArgumentsError as error:
            self._bad_calls += 1
            return ToolResult(text=str(error))
        try:
            with boundary(ToolError, f"tool {call.name}"):
                return await self._cache.get_or_call(
                    tool.key(arguments), lambda: self._fetch(tool, arguments)
                )
        except ToolError as error:
            self._errors += 1
            logger.warning("rollout=%s tool=%s: %s", rollout_id, call.name, error)
            return ToolResult(text=UNAVAILABLE, error=f"{call.name}: {error}")

    async def _fetch(self, tool: ProviderTool[Any], arguments: Any) -> ToolResult:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await tool.fetch(arguments)
        except TimeoutError as error:
            raise ToolError(f"no answer within {self._timeout_s} s") from error
