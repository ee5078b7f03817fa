"""An asyncio loop on a thread of its own, for callers that block."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")


class LoopThread:
    """`start`, then `run` and `ask` from any other thread, then `close`."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`loop`: one that does not run yet."""
        self.loop = loop or asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises; blocks the caller."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Let it run beside, until it ends or the loop's tasks are cancelled; its error is logged,
        and ends nothing else."""
        asyncio.run_coroutine_threadsafe(work, self.loop).add_done_callback(_log_error)

    def ask(self, question: Callable[[], T]) -> T:
        """Call `question` between two turns of the loop, so that it sees no half-done change."""
        if not self.is_running or threading.current_thread() is self._thread:
            return question()

        async def answer() -> T:
            return question()

        return self.run(answer())

    def close(self) -> None:
        """End the loop and its thread. Harmless when already closed."""
        if self.is_running:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        if not self.loop.is_closed():
            self.loop.close()


def _log_error(ended: "Future[None]") -> None:
    if not ended.cancelled() and (error := ended.exception()) is not None:
        logger.error("work beside the loop ended", exc_info=error)
