"""kill -9 while a checkpoint is written: the run resumes to the same bits, whatever the moment."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900


def kill(folder: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.kill_checkpoints", str(folder), *options]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def test_a_kill_at_each_kind_of_moment_loses_and_repeats_nothing(tmp_path: Path) -> None:
    result = kill(tmp_path, "one_of_each")
    moments = {f"{when} {what}" for when in ("before", "after")
               for what in ("open", "write", "fsync", "rename")}  # fmt: skip
    assert {point.rsplit(" ", 1)[0] for point in result["killed"]} == moments
    assert result["bad"] == []


@pytest.mark.soak
def test_a_kill_at_every_moment_loses_and_repeats_nothing(tmp_path: Path) -> None:
    result = kill(tmp_path)
    assert len(result["killed"]) == result["points"] >= 20
    assert result["bad"] == []
