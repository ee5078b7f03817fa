"""A node dies under a run, and a driver dies and is started again by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.check.audit import audit_run
from cluster.track.recorder import METRICS, read_rows

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 1800


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.chaos
def test_a_run_outlives_a_raylet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.lost_node", str(tmp_path)]
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["workers_on_the_lost_node"] >= 1, "nothing of the run was on that node"
    assert (result["workers_left_there"], result["workers"]) == (0, 2)
    audit = audit_run(tmp_path / "node")
    assert audit.is_sound, audit
    assert (result["steps"], audit.steps, audit.consumed) == (3, 3, 6)


@pytest.mark.chaos
def test_a_killed_driver_goes_on_with_the_same_command(tmp_path: Path) -> None:
    kill_drivers(tmp_path, kills=1)


@pytest.mark.soak
def test_a_driver_that_is_killed_again_and_again(tmp_path: Path) -> None:
    kill_drivers(tmp_path, kills=6)


def kill_drivers(folder: Path, *, kills: int) -> None:
    """Each process dies as soon as it has recorded a step of its own; the last one finishes."""
    steps = kills + 2
    command = [
        *(sys.executable, "-m", "cluster.cli", "train", "--recipe", "nano"),
        *("run.name=driver", f"run.root={folder}", "wandb.mode=disabled"),
        *("rollout.kv_cache_gib=0.2", "rollout.max_sequences=16", "eval.num_tasks=2"),
        *(f"train.steps={steps}", "train.groups_per_step=2", "train.group_size=4"),
        *("train.checkpoint_every=1", "train.max_staleness=1"),
    ]
    run_dir = folder / "driver"
    with (folder / "driver.log").open("wb") as log:
        for _ in range(kills):
            known = len(list(read_rows(run_dir / METRICS)))
            process = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=log, stderr=log)
            try:
                wait_for_a_row(run_dir / METRICS, after=known, process=process)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        subprocess.run(
            command, env=environment(), cwd=ROOT, stdout=log, stderr=log, timeout=TIMEOUT_S
        ).check_returncode()
    audit = audit_run(run_dir)
    assert audit.is_sound, audit
    assert (audit.starts, audit.steps, audit.consumed) == (kills + 1, steps, 2 * steps)


def wait_for_a_row(path: Path, *, after: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(list(read_rows(path))) <= after:
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, "no step was recorded"
        time.sleep(0.05)
