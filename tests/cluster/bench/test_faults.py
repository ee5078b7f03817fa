"""A 200-row evaluation against a judge with every fault there is, and one that is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.bench.rules import knowgen_rules
from cluster.bench.summary import summarise
from cluster.recorder import read_rows
from tests.fakes.bench_process import NUM_ROWS, WIDTH, evaluate
from tests.fakes.judge_server import Fault, JudgeServer, first_tries_fail, in_thread

TRANSIENT = (
    *(Fault.STORM, Fault.ERROR, Fault.TRUNCATED, Fault.WRONG_JSON),
    *(Fault.OFF_SCALE, Fault.SLOW, Fault.FENCED),
)


def stubborn(content: str, asked_before: int) -> Fault | None:
    """One row in ten never gets a verdict, two in five get one at the second try."""
    number = int(content[-4:], 16)
    if number % 10 == 0:
        return (Fault.OFF_SCALE, Fault.BLOCKED, Fault.ERROR)[number % 3]
    return first_tries_fail(*TRANSIENT, share=0.4)(content, asked_before)


@pytest.mark.slow
async def test_every_row_is_scored_or_failed_with_its_cause(tmp_path: Path) -> None:
    async with JudgeServer(faults=stubborn, slow_s=0.3, retry_after_s=0.02) as server:
        rows = await evaluate(tmp_path, server.base_url)
    summary = summarise(rows, rules=knowgen_rules("paper"), missing="zero")

    assert summary.n == NUM_ROWS
    assert summary.scored + summary.failed == NUM_ROWS
    assert all((row.judged is None) == (row.failure is not None) for row in rows)
    assert summary.failed == sum(stubborn(c, 9) is not None for c in server.asked)
    assert set(summary.causes) <= {"judge: BadReply", "judge: Blocked", "judge: HTTP 503"}
    assert set(server.faults_made) >= {*TRANSIENT, Fault.BLOCKED}
    retries = sum(
        n for fault, n in server.faults_made.items() if fault not in (Fault.SLOW, Fault.FENCED)
    )
    assert server.num_calls <= NUM_ROWS + retries
    assert server.num_paid_twice == 0


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed_it_pays_nothing_twice(tmp_path: Path) -> None:
    """kill -9 while verdicts are on disk and others are asked for; the server counts."""
    killed = False
    server: JudgeServer

    def script(content: str, asked_before: int) -> Fault | None:
        """Until the kill, verdicts after the sixtieth are held back."""
        if not killed and server.paid.total() >= 60:
            return Fault.SLOW
        return first_tries_fail(Fault.STORM, Fault.TRUNCATED, share=0.2)(content, asked_before)

    server = JudgeServer(faults=script, slow_s=600.0, retry_after_s=0.02)
    command = [sys.executable, "-m", "tests.fakes.bench_process", str(tmp_path)]
    with in_thread(server):
        process = subprocess.Popen([*command, server.base_url])
        wait_until_held_back(server, tmp_path, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = True
        paid = server.paid.total()
        subprocess.run([*command, server.base_url], check=True, timeout=240)
        assert server.num_paid_twice == 0
        assert server.paid.total() == NUM_ROWS
        assert 60 <= paid < NUM_ROWS
        retries = server.faults_made[Fault.STORM] + server.faults_made[Fault.TRUNCATED]
        assert server.num_calls <= NUM_ROWS + retries + WIDTH  # those that were never answered

    rows = list(read_rows(tmp_path / "judge.jsonl"))
    assert len(rows) == len({row["task_id"] for row in rows}) == NUM_ROWS


def wait_until_held_back(
    server: JudgeServer, folder: Path, process: "subprocess.Popen[bytes]"
) -> None:
    """Every verdict that was paid for has reached the disk, and all places wait for another."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        on_disk = sum(1 for _ in read_rows(folder / "judge.jsonl"))
        if on_disk == server.paid.total() >= 60 and server.in_flight == WIDTH:
            return
        time.sleep(0.05)
    raise AssertionError("the evaluation never came to the point where it is killed")
