"""Waiting for what comes in its own time, which on a busy machine may be a long one."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from ray.exceptions import RayActorError

PATIENCE_S = 60.0


async def until(is_so: Callable[[], bool]) -> None:
    """And a moment longer, in which what must not happen may happen."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)


@contextlib.contextmanager
def deadline(seconds: float, *, of: str) -> Iterator[None]:
    """TimeoutError in the main thread, also while it waits for another one; not inside `ray.get`,
    which has a `timeout`."""

    def end(*_: object) -> None:
        raise TimeoutError(f"{of} had not ended after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def until_dead(method: Any) -> None:
    """Until its actor answers no more: `ray.kill` returns before the process has ended."""
    with contextlib.suppress(RayActorError):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await method.remote()
