"""An event loop whose clock jumps: waiting takes no time, so hours are simulated in a moment."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


def on_a_simulated_clock(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An async test that depends on who is first, which a busy machine may change otherwise."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class SimulatedLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves to the next timer whenever nothing is left to run.

    What goes to an executor runs at once, on the loop's own thread, and takes no time either. Calls
    from other threads work; the clock stands still while the loop has no timer.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever awaits it is to have it
            future.set_exception(error)
        return future


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            return super().select(None)
        events: list[Any] = super().select(0)
        if not events and timeout > 0:
            self._loop.jump(timeout)
        return events
