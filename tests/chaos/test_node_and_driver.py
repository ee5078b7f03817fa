"""A node dies under a run, and a driver dies and is started again by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster.check.audit import audit_run
from cluster.track.recorder import EVENTS, METRICS, read_rows

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900
CHECKPOINTS = "checkpoints"


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


class Killed:
    """A run that is to be killed, as its folder shows it: what has come since it began."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows_before = len(self._steps())
        self._drafts_before = self._drafts()
        self._whole_before = self._whole()

    def has_stepped(self) -> bool:
        """And had no time to leave a checkpoint of it."""
        return len(self._new_steps()) > 0

    def is_saving(self) -> bool:
        return len(self._drafts() - self._drafts_before) > 0

    def has_saved(self) -> bool:
        return len(self._new_whole()) > 0

    def has_stepped_since_it_saved(self) -> bool:
        """The next one does that step again."""
        return self.has_saved() and max(self._new_steps()) > max(self._new_whole())

    def _steps(self) -> list[int]:
        return [row["step"] for row in read_rows(self._folder / METRICS)]

    def _new_steps(self) -> list[int]:
        return self._steps()[self._rows_before :]

    def _drafts(self) -> set[str]:
        return {path.name for path in (self._folder / CHECKPOINTS).glob(".step_*")}

    def _whole(self) -> set[int]:
        paths = (self._folder / CHECKPOINTS).glob("step_*")
        return {int(path.name.removeprefix("step_")) for path in paths}

    def _new_whole(self) -> set[int]:
        return self._whole() - self._whole_before


Moment = Callable[[Killed], bool]


@pytest.mark.chaos
def test_a_killed_driver_goes_on_with_the_same_command(tmp_path: Path) -> None:
    kill_drivers(tmp_path, [Killed.has_stepped_since_it_saved])


@pytest.mark.soak
def test_a_driver_that_is_killed_again_and_again(tmp_path: Path) -> None:
    moments = [Killed.is_saving, Killed.has_saved, Killed.has_stepped_since_it_saved]
    kill_drivers(tmp_path, [Killed.has_stepped, *moments, *moments[:2]])


def kill_drivers(folder: Path, moments: Sequence[Moment]) -> None:
    """Each process dies at its moment; the last one finishes."""
    steps = 2 * len(moments) + 2
    command = [
        *(sys.executable, "-m", "cluster.cli", "train", "--recipe", "nano"),
        *("run.name=driver", f"run.root={folder}", "wandb.mode=disabled"),
        *("rollout.kv_cache_gib=0.2", "rollout.max_sequences=16", "eval.num_tasks=2"),
        *(f"train.steps={steps}", "train.groups_per_step=2", "train.group_size=4"),
        *("train.checkpoint_every=1", "train.max_staleness=1"),
    ]
    run_dir = folder / "driver"
    with (folder / "driver.log").open("wb") as log:
        for moment in moments:
            killed = Killed(run_dir)
            process = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=log, stderr=log)
            try:
                wait_for(moment, killed, process=process)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        subprocess.run(
            command, env=environment(), cwd=ROOT, stdout=log, stderr=log, timeout=TIMEOUT_S
        ).check_returncode()
    audit = audit_run(run_dir)
    assert audit.is_sound, audit
    assert (audit.starts, audit.steps, audit.consumed) == (len(moments) + 1, steps, 2 * steps)
    begun_at = [row["step"] for row in read_rows(run_dir / EVENTS) if row["event"] == "started"]
    assert begun_at == sorted(begun_at)
    assert begun_at[-1] > 0, "the last one went on from a checkpoint"


def wait_for(moment: Moment, killed: Killed, *, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not moment(killed):
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, f"{moment.__name__} never came"
        time.sleep(0.02)
