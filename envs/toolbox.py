"""Tool calls by name, answered through the store, with a deadline, and counted.

In: a ToolCall from the policy. Out: always a ToolResult. The policy's mistakes are ordinary
results; a provider that is down or too slow, and a replay without an answer, is `error` with a text
that tells the policy nothing else. Errors of the image store pass through: they are not the
provider's.
"""

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.errors import ToolError, boundary
from core.metrics import p50_and_p95
from core.protocols import ToolSpec
from core.records import ImageRef, RolloutId, ToolCall, ToolResult
from envs.observations import call_key, canonical_call
from envs.store.library import Library
from envs.store.read_through import too_slow
from envs.tools.base import ArgumentsError, ProviderTool

logger = logging.getLogger(__name__)

UNAVAILABLE = "search unavailable"
READ_CALLS_KEPT = 4096
"""Read arguments in memory: members of a group often write the same call."""
LATENCIES_KEPT = 2048
"""Of the latest calls of this process; p50 and p95 are over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCounters:
    """Of a session: of every process that serves it, restarts included, but for what stands apart.

    A call is made of operations (one query, one page, ...); hits, coalesced, fetches, failures and
    misses count operations.
    """

    calls: int
    bad_calls: int
    """Unknown tools and bad arguments."""
    errors: int
    """Calls that ended in "search unavailable"."""
    hits: int
    """Answered from the store."""
    coalesced: int
    """Shared with an equal one in flight."""
    fetches: int
    """Answered by a provider."""
    upstream_calls: int
    """What left the machine; an operation counts once, however often it was tried."""
    failures: Mapping[str, int]
    """Of providers, by kind, e.g. {"HTTP 503": 2}."""
    misses: Mapping[str, int]
    """Of a replay, by what was done: fail, empty, nearest."""
    blocked: Mapping[str, int]
    """Results that the contamination guard held back, by reason (envs/contamination.py)."""
    damaged: int
    """Kept answers whose files were lost, and fetched again."""
    bytes_fetched: int
    dollars: Mapping[str, float]
    """By provider."""
    provider_failures: Mapping[str, int]
    """By provider; another one of its list may have answered."""
    passed_over: Mapping[str, int]
    """By provider: operations that went to another while this one rested after failures."""
    skipped_images: Mapping[str, int]
    """By reason, e.g. {"HTTP 404": 3, "too small": 1}: candidates that the next one replaced."""
    refused: Mapping[str, int]
    """Pages that were not asked for, by why their URL was refused (envs/guard.py)."""
    evictions: int
    """Entries dropped to stay under tools.max_store_gib."""
    pins: int
    """Images held now."""
    in_flight: int
    """Calls of this process, now."""
    p50_s: float
    """Of the latest calls of this process."""
    p95_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadCall:
    """A call that was understood."""

    tool: ProviderTool[Any]
    arguments: Any
    canonical: str
    key: str


class LocalToolbox:
    """Implements core.protocols.Toolbox in this process."""

    def __init__(
        self,
        tools: Sequence[ProviderTool[Any]],
        library: Library,
        *,
        deadline_s: float = 30.0,
        close_providers: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`deadline_s` bounds one call; `close_providers` is for `close`."""
        self._tools = {tool.spec.name: tool for tool in tools}
        self._library = library
        self._deadline_s = deadline_s
        self._close_providers = close_providers
        self._read = functools.lru_cache(maxsize=READ_CALLS_KEPT)(self._read_call)
        self._in_flight = 0
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the policy is told of the tools."""
        return tuple(tool.spec for tool in self._tools.values())

    async def call(self, call: ToolCall, *, rollout_id: RolloutId) -> ToolResult:
        started = time.monotonic()
        self._library.tallies.add("calls")
        self._in_flight += 1
        try:
            result, key = await self._call(call, rollout_id)
        finally:
            self._in_flight -= 1
        await self._library.flush_if_due()
        latency_s = time.monotonic() - started
        self._latencies_s.append(latency_s)
        return replace(result, call_key=key, latency_s=latency_s)

    async def pin(self, ordinal: int, images: Sequence[ImageRef]) -> bool:
        return await self._library.pin(ordinal, images)

    async def release(self, ordinals: Sequence[int]) -> None:
        await self._library.release(ordinals)

    def counters(self) -> ToolCounters:
        totals = self._library.tallies.totals()
        p50_s, p95_s = p50_and_p95(self._latencies_s)

        def under(prefix: str) -> dict[str, float]:
            return {k.removeprefix(prefix): v for k, v in totals.items() if k.startswith(prefix)}

        return ToolCounters(
            **{name: int(totals.get(name, 0)) for name in _COUNTS},
            bytes_fetched=int(totals.get("bytes", 0)),
            failures={kind: int(count) for kind, count in under("failures/").items()},
            misses={handling: int(count) for handling, count in under("misses/").items()},
            blocked={reason: int(count) for reason, count in under("blocked/").items()},
            dollars=under("dollars/"),
            provider_failures={k: int(n) for k, n in under("provider_failures/").items()},
            skipped_images={why: int(n) for why, n in under("skipped_images/").items()},
            refused={why: int(n) for why, n in under("refused/").items()},
            passed_over={k: int(n) for k, n in under("passed_over/").items()},
            pins=self._library.num_pins(),
            in_flight=self._in_flight,
            p50_s=p50_s,
            p95_s=p95_s,
        )

    async def close(self) -> None:
        """Connections end, and what was counted and used is written down; no call may follow."""
        if self._close_providers is not None:
            await self._close_providers()
        self._library.close()

    async def _call(self, call: ToolCall, rollout_id: RolloutId) -> tuple[ToolResult, str]:
        """The result, and the key of the call; "" for a bad one."""
        try:
            read = self._read(call.name, call.arguments)
        except ArgumentsError as error:
            self._library.tallies.add("bad_calls")
            return ToolResult(text=str(error)), ""
        try:
            result = await self._run(read, rollout_id)
        except ToolError as error:
            self._library.tallies.add("errors")
            logger.warning("rollout=%s tool=%s: %s", rollout_id, call.name, error)
            result = ToolResult(text=UNAVAILABLE, error=f"{call.name}: {error}")
        await self._library.observe(read.canonical, result, key=read.key)
        return result, read.key

    def _read_call(self, name: str, raw: str) -> _ReadCall:
        tool = self._tools.get(name)
        if tool is None:
            raise ArgumentsError(f"there is no such tool; use {', '.join(self._tools)}")
        arguments = tool.read(raw)
        canonical = canonical_call(name, arguments.model_dump())
        return _ReadCall(
            tool=tool, arguments=arguments, canonical=canonical, key=call_key(canonical)
        )

    async def _run(self, read: _ReadCall, rollout_id: RolloutId) -> ToolResult:
        try:
            async with asyncio.timeout(self._deadline_s):
                with boundary(ToolError, f"tool {read.tool.spec.name}"):
                    result = await read.tool.run(read.arguments)
                    if not await self._pin(rollout_id, result):
                        result = await read.tool.run(read.arguments)
                        await self._pin(rollout_id, result)
                    return result
        except TimeoutError as error:
            raise too_slow(self._deadline_s) from error

    async def _pin(self, rollout_id: RolloutId, result: ToolResult) -> bool:
        refs = [image.ref for image in result.images]
        return await self._library.pin(rollout_id.ordinal, refs, heldout=rollout_id.heldout)


_COUNTS = (
    *("calls", "bad_calls", "errors", "hits", "coalesced", "fetches", "upstream_calls"),
    *("damaged", "evictions"),
)
