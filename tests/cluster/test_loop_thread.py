"""An asyncio loop on a thread of its own: an error of work beside is told, and ends nothing."""

import asyncio
import logging

import pytest

from cluster.loop_thread import LoopThread


def test_an_error_of_work_beside_the_loop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    thread = LoopThread("beside")
    thread.start()

    async def fail() -> None:
        raise ZeroDivisionError("a bug in a meter")

    async def answer() -> int:
        return 7

    with caplog.at_level(logging.ERROR):
        thread.begin(fail())
        assert thread.run(answer()) == 7
        thread.run(asyncio.sleep(0.01))
    thread.close()
    assert "a bug in a meter" in caplog.text
