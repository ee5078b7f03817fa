"""The search actor: one toolbox and its cache for all rollout workers, and the client in front.

In: tool calls. Out: always a ToolResult. The actor holds nothing that its constructor cannot make
again, so Ray restarts it; the client asks again until `deadline_s` and then gives a result with
`error` set. Errors that the toolbox raises (an image store that is full) come out as they went in.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import OwnerDiedError, RayActorError, RayTaskError

from core.errors import GensearcherError, InfraError
from core.protocols import ToolSpec
from core.records import RolloutId, ToolCall, ToolResult
from envs.toolbox import UNAVAILABLE, LocalToolbox, ToolCounters

logger = logging.getLogger(__name__)

DEADLINE_S = 90.0
"""Longer than the 30 s after which Ray declares a lost node dead."""
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
MAX_CONCURRENCY = 1000
"""Calls that the actor has in flight; they wait for providers, not for a CPU."""

T = TypeVar("T")


class Unreachable(InfraError):
    """The search actor did not come back in time."""


class SearchActor:
    """A `LocalToolbox` in an async Ray actor."""

    def __init__(self, open_toolbox: Callable[[], LocalToolbox]) -> None:
        """`open_toolbox` is called again at every restart."""
        self._toolbox = open_toolbox()

    async def call(self, call: ToolCall, rollout_id: RolloutId) -> ToolResult:
        return await self._toolbox.call(call, rollout_id=rollout_id)

    async def counters(self) -> ToolCounters:
        return self._toolbox.counters()

    async def specs(self) -> tuple[ToolSpec, ...]:
        return self._toolbox.specs


def start_search_actor(open_toolbox: Callable[[], LocalToolbox], *, num_cpus: float) -> Any:
    """The handle of a new actor; `open_toolbox` travels by cloudpickle and opens its own files."""
    actor = ray.remote(SearchActor).options(
        num_cpus=num_cpus, max_restarts=-1, max_concurrency=MAX_CONCURRENCY
    )
    return actor.remote(open_toolbox)


class SearchClient:
    """Implements core.protocols.Toolbox. Keeps no state, so it travels to every worker."""

    def __init__(self, handle: Any, *, deadline_s: float = DEADLINE_S) -> None:
        """`deadline_s` bounds one call with all its repetitions."""
        self._handle = handle
        self._deadline_s = deadline_s

    async def call(self, call: ToolCall, *, rollout_id: RolloutId) -> ToolResult:
        started = time.monotonic()
        try:
            return await self._ask(lambda: self._handle.call.remote(call, rollout_id))
        except Unreachable as error:
            logger.warning("rollout=%s tool=%s: %s", rollout_id, call.name, error)
            latency_s = time.monotonic() - started
            return ToolResult(text=UNAVAILABLE, error=str(error), latency_s=latency_s)

    async def counters(self) -> ToolCounters:
        """Since the actor's last start. Raises Unreachable."""
        return await self._ask(self._handle.counters.remote)

    async def _ask(self, send: Callable[[], Awaitable[T]]) -> T:
        pause_s, last = FIRST_PAUSE_S, "it did not answer"
        try:
            async with asyncio.timeout(self._deadline_s):
                while True:
                    try:
                        return await send()
                    except (RayActorError, OwnerDiedError) as error:
                        last = type(error).__name__
                    await asyncio.sleep(pause_s)
                    pause_s = min(MAX_PAUSE_S, 2 * pause_s)
        except RayTaskError as error:
            if isinstance(error.cause, GensearcherError):
                raise error.cause from error
            raise
        except TimeoutError as error:
            message = f"the search actor was not reached in {self._deadline_s:.0f} s: {last}"
            raise Unreachable(message) from error
