"""The two-step run as a submitted job: `ray job submit --working-dir . -- gensearcher train`."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 600
JOB_TIMEOUT_S = 1800
STEP_OVERRIDES = (
    *("train.steps=2", "train.groups_per_step=2", "train.group_size=4"),
    *("eval.num_tasks=4", "eval.num_showcase=1", "rollout.max_parallel_episodes=8"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    dashboard: str
    env: dict[str, str]


@pytest.fixture
def head() -> Iterator[Head]:
    """A `ray start --head` of its own: own ports, own folder; ended by its pid alone."""
    folder = Path(tempfile.mkdtemp(prefix="gj-", dir="/tmp"))
    port, dashboard, agent, metrics = free_ports(4)
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        **{"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"),
        *(f"--port={port}", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"),
        *(f"--temp-dir={folder}", "--object-store-memory=400000000"),
        *("--node-ip-address=127.0.0.1", "--disable-usage-stats"),
    ]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for_port(agent, process)
        yield Head(dashboard=f"http://127.0.0.1:{dashboard}", env=env)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    """The dashboard's agent is the last to come up, and takes the jobs."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, "ray start ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.5)
    raise TimeoutError(f"nothing listens on port {port}")


def test_a_submitted_job_trains_two_steps_and_reports(head: Head, tmp_path: Path) -> None:
    job = subprocess.run(
        [
            *(str(BIN / "ray"), "job", "submit", "--address", head.dashboard),
            *("--working-dir", ".", "--", "gensearcher", "train"),
            *("--recipe", "configs/nano.yaml", f"run.root={tmp_path}", "run.name=job"),
            *STEP_OVERRIDES,
        ],
        cwd=ROOT,
        env=head.env,
        capture_output=True,
        text=True,
        timeout=JOB_TIMEOUT_S,
        check=False,
    )

    assert job.returncode == 0, job.stdout[-6000:] + job.stderr[-2000:]
    assert "step 2/2" in job.stdout
    summary = json.loads((tmp_path / "job" / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["heldout"]["after"]["n"] == 4
    assert (tmp_path / "job" / "report.html").is_file()
