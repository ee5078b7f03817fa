"""A stall is written down: this process, and others that are busy, with what they wait for."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from core.stacks import STALL, answer_for_stacks, stacks_of_this_process, write_stall

OTHER = """
import sys, time
from pathlib import Path
from core.stacks import answer_for_stacks

def hang_in_the_learner():
    print("up", flush=True)
    while True:
        time.sleep(0.01)

answer_for_stacks(Path(sys.argv[1]), "learner")
answer_for_stacks(Path(sys.argv[1]), "learner")
hang_in_the_learner()
"""


async def test_waiting_tasks_are_shown_with_what_they_await_and_equal_ones_once() -> None:
    never = asyncio.Event()

    async def inner() -> None:
        await never.wait()

    async def outer() -> None:
        await inner()

    tasks = [asyncio.create_task(outer()) for _ in range(3)]
    await asyncio.sleep(0)
    shown = stacks_of_this_process()
    assert "3 x task outer (test_stacks.py:" in shown
    assert "> inner (test_stacks.py:" in shown
    assert "> wait (locks.py:" in shown
    for task in tasks:
        task.cancel()


def test_another_process_that_hangs_answers_too(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        path = write_stall(tmp_path, "nothing moved for 300 s", wait_s=6.0)
        text = path.read_text()
    finally:
        other.kill()
        other.communicate()
    assert path == tmp_path / STALL
    assert text.startswith("nothing moved for 300 s")
    assert "== controller ==" in text
    assert text.count("== learner-") == 1
    assert "in hang_in_the_learner" in text


def test_nobody_answers_unasked(tmp_path: Path) -> None:
    answer_for_stacks(tmp_path, "idle")
    time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []
