"""SIGTERM as Ctrl-C: what `ray job stop` and a preempted node send ends a run with a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_like_ctrl_c() -> Iterator[None]:
    """KeyboardInterrupt at SIGTERM. Main thread only; enter it after `ray.init`, which puts a
    handler of its own in place that ends the process at once.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
