"""The search actors: toolboxes over one store for all rollout workers, and the client in front.

In: tool calls. Out: always a ToolResult. An actor holds nothing that its constructor cannot make
again - answers, pins and counts are in the store - so Ray restarts it; the client asks again until
`deadline_s` and then gives a result with `error` set. Errors that the toolbox raises (an image
store that is full) come out as they went in.
"""

import asyncio
import functools
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray.exceptions import OwnerDiedError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.opened import Opened
from core.errors import GensearcherError, InfraError
from core.protocols import ToolSpec
from core.records import ImageRef, RolloutId, ToolCall, ToolResult
from envs.toolbox import UNAVAILABLE, LocalToolbox, ToolCounters

logger = logging.getLogger(__name__)

DEADLINE_S = 90.0
"""Longer than the 30 s after which Ray declares a lost node dead."""
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
MAX_CONCURRENCY = 1000
"""Calls that the actor has in flight; they wait for providers, not for a CPU."""

CLOSE_S = 10.0

T = TypeVar("T")


class Unreachable(InfraError):
    """The search actor did not come back in time."""


class SearchActor:
    """A `LocalToolbox` in an async Ray actor."""

    def __init__(self, open_toolbox: Callable[[], LocalToolbox]) -> None:
        """`open_toolbox` is called again at every restart."""
        self._opened = Opened(open_toolbox)

    @property
    def _toolbox(self) -> LocalToolbox:
        return self._opened.value

    async def call(self, call: ToolCall, rollout_id: RolloutId) -> ToolResult:
        return await self._toolbox.call(call, rollout_id=rollout_id)

    async def pin(self, ordinal: int, images: Sequence[ImageRef]) -> bool:
        return await self._toolbox.pin(ordinal, images)

    async def release(self, ordinals: Sequence[int]) -> None:
        await self._toolbox.release(ordinals)

    async def counters(self) -> ToolCounters:
        return self._toolbox.counters()

    async def specs(self) -> tuple[ToolSpec, ...]:
        return self._toolbox.specs

    async def close(self) -> None:
        await self._toolbox.close()

    async def node_id(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


def start_search_actors(
    open_toolbox: Callable[[], LocalToolbox], *, number: int = 1, num_cpus: float
) -> list[Any]:
    """The handles of new actors; `open_toolbox` travels by cloudpickle and opens its own files.

    A store serves one node, so the others go where the first one went.
    """
    actor = ray.remote(SearchActor)
    options: dict[str, Any] = {
        "num_cpus": num_cpus,
        "max_restarts": -1,
        "max_concurrency": MAX_CONCURRENCY,
    }
    first = actor.options(**options).remote(open_toolbox)
    if number == 1:
        return [first]
    where = NodeAffinitySchedulingStrategy(ray.get(first.node_id.remote()), soft=False)
    beside = actor.options(**options, scheduling_strategy=where)
    return [first, *(beside.remote(open_toolbox) for _ in range(number - 1))]


def specs_of(handle: Any) -> tuple[ToolSpec, ...]:
    """What the policy is told of the tools, when it is up. Raises what `open_toolbox` raised."""
    try:
        specs: tuple[ToolSpec, ...] = ray.get(handle.specs.remote())
    except RayTaskError as error:
        if isinstance(error.cause, GensearcherError):
            raise error.cause from error
        raise
    return specs


def stop_search_actors(handles: Sequence[Any]) -> None:
    """Let them write down what they have counted and close their connections; then end them."""
    ray.wait([one.close.remote() for one in handles], num_returns=len(handles), timeout=CLOSE_S)
    for one in handles:
        ray.kill(one)


class SearchClient:
    """Implements core.protocols.Toolbox. Keeps no state, so it travels to every worker.

    Equal calls go to the same actor; calls that only mean the same meet in the store.
    """

    def __init__(self, handles: Sequence[Any], *, deadline_s: float = DEADLINE_S) -> None:
        """`deadline_s` bounds one call with all its repetitions."""
        self._handles = tuple(handles)
        self._deadline_s = deadline_s

    async def call(self, call: ToolCall, *, rollout_id: RolloutId) -> ToolResult:
        started = time.monotonic()
        handle = self._handles[self._place(call)]
        try:
            return await self._ask(lambda: handle.call.remote(call, rollout_id))
        except Unreachable as error:
            logger.warning("rollout=%s tool=%s: %s", rollout_id, call.name, error)
            latency_s = time.monotonic() - started
            return ToolResult(text=UNAVAILABLE, error=str(error), latency_s=latency_s)

    async def pin(self, ordinal: int, images: Sequence[ImageRef]) -> bool:
        try:
            return await self._ask(functools.partial(self._handles[0].pin.remote, ordinal, images))
        except Unreachable as error:
            logger.warning("task %s is played again: %s", ordinal, error)
            return False

    async def release(self, ordinals: Sequence[int]) -> None:
        """An actor that is away keeps its pins: they cost room, and the next launch drops them."""
        try:
            for handle in self._handles:
                await self._ask(functools.partial(handle.release.remote, ordinals))
        except Unreachable as error:
            logger.warning("pins of tasks %s are kept: %s", ordinals, error)

    async def counters(self) -> ToolCounters:
        """Of the session. Raises Unreachable."""
        counters: list[ToolCounters] = [
            await self._ask(handle.counters.remote) for handle in self._handles
        ]
        if len(counters) > 1:  # the first one spoke before the others had written theirs down
            counters[0] = await self._ask(self._handles[0].counters.remote)
        return replace(
            counters[0],
            in_flight=sum(one.in_flight for one in counters),
            p50_s=max(one.p50_s for one in counters),
            p95_s=max(one.p95_s for one in counters),
        )

    def _place(self, call: ToolCall) -> int:
        if len(self._handles) == 1:
            return 0
        digest = hashlib.sha256(f"{call.name}\0{call.arguments}".encode(errors="replace")).digest()
        return int.from_bytes(digest[:4], "big") % len(self._handles)

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
