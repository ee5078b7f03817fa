"""`gensearcher doctor --mismatch` as a command: a policy that agrees, and one that sees nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from core.config import load_config

pytestmark = pytest.mark.integration

POLICY = Path(load_config("nano").policy.path)


def ask_doctor(checkpoint: Path) -> tuple[int, dict[str, Any]]:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "cluster.cli", "doctor", "--json"),
            *("--mismatch", str(checkpoint), "rollout.kv_cache_gib=0.1"),
        ],
        capture_output=True,
        text=True,
    )
    assert run.stdout, run.stderr
    return run.returncode, json.loads(run.stdout)


def test_rollout_and_learner_agree_on_the_nano_policy() -> None:
    code, found = ask_doctor(POLICY)

    assert (code, found["ok"], found["problems"]) == (0, True, [])
    assert found["text"]["num_tokens"] > 50
    assert found["after_image"]["num_tokens"] > 100
    assert found["text"]["max"] < 1e-4
    assert found["after_image"]["max"] < 1e-4
    assert found["blanked"]["mean"] > 0.02


def test_a_policy_that_does_not_look_at_its_images_is_found_out(tmp_path: Path) -> None:
    shutil.copytree(POLICY, tmp_path / "policy")
    weights = load_file(tmp_path / "policy" / "model.safetensors")
    blind = {k: w * 0 if "visual" in k else w for k, w in weights.items()}
    save_file(blind, tmp_path / "policy" / "model.safetensors", metadata={"format": "pt"})

    code, found = ask_doctor(tmp_path / "policy")

    assert code == 1
    (problem,) = found["problems"]
    assert "the policy does not look at its images" in problem
    assert found["after_image"]["max"] < 1e-4
