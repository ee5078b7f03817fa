"""One seed, twice: the same tokens, log-probs, pixels, scores and weights, to the last bit."""

import hashlib
from pathlib import Path

import pytest

from cluster.launch import launch
from cluster.track.recorder import TRAJECTORIES, read_rows
from core.config import load_config

pytestmark = [
    *(pytest.mark.ray, pytest.mark.integration, pytest.mark.slow),
    pytest.mark.usefixtures("ray_cluster"),
]

STEPS = 2


def play(root: Path, name: str) -> tuple[dict[str, tuple[str, float]], str]:
    """(digest and score of every rollout, digest of the final weights) of a short run."""
    config = load_config(
        "nano",
        overrides=[
            *(f"run.root={root}", f"run.name={name}", "run.seed=3", "run.deterministic=true"),
            *("rollout.kv_cache_gib=0.2", "rollout.max_sequences=16"),
            *(f"train.steps={STEPS}", "train.groups_per_step=2", "train.group_size=4"),
        ],
    )
    with launch(config) as system:
        system.train()
        weights = system.checkpoints.latest()
        assert weights is not None
        policy = (weights / "learner" / "policy" / "model.safetensors").read_bytes()
    rows = read_rows(config.run_dir / TRAJECTORIES)
    rollouts = {row["rollout"]: (row["digest"], row["score"]["value"]) for row in rows}
    return rollouts, hashlib.sha256(policy).hexdigest()


def test_equal_seeds_give_equal_runs(tmp_path: Path) -> None:
    rollouts, weights = play(tmp_path, "first")
    again, same_weights = play(tmp_path, "second")

    assert len(rollouts) >= STEPS * 2 * 4
    assert len({digest for digest, _ in rollouts.values()}) > 1
    assert rollouts == again
    assert weights == same_weights
