"""kill -9 while a checkpoint is written, in a whole nano run with every real engine."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cluster.check.audit import audit_run
from cluster.checkpoints import is_whole
from cluster.launch import launch
from cluster.track.recorder import METRICS, read_rows
from cluster.track.status import StepReport
from core.config import load_config
from core.files import watched_writes

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


def die_in_the_next_save(learner: Any) -> None:
    """The weights and the optimizer's state are on disk then, and the file that says so is not."""

    def watch(point: str) -> None:
        if point == "before rename state.json":
            os.kill(os.getpid(), signal.SIGKILL)

    learner.armed = watched_writes(watch)
    learner.armed.__enter__()


def test_a_learner_killed_while_it_saves_loses_and_repeats_nothing(tmp_path: Path) -> None:
    config = load_config(
        "nano",
        overrides=[
            "run.name=killed",
            f"run.root={tmp_path}",
            "rollout.kv_cache_gib=0.2",
            "rollout.max_sequences=16",
            "train.steps=3",
            "train.groups_per_step=2",
            "train.group_size=4",
            "train.checkpoint_every=1",
        ],
    )
    steps: list[int] = []

    def on_step(report: StepReport) -> None:
        steps.append(report.step)
        if steps == [1, 2]:
            system.finish_checkpoint()  # of step 1
            system.algorithm.learner_group.foreach_learner(die_in_the_next_save)

    with launch(config) as system:
        system.train(on_step=on_step)
    # Step 2 comes again: its checkpoint was never whole. Step 3 may have been done meanwhile.
    assert steps in ([1, 2, 2, 3], [1, 2, 3, 2, 3])
    checkpoints = sorted((config.run_dir / "checkpoints").iterdir())
    assert all(is_whole(path) for path in checkpoints)
    assert checkpoints[-1].name == "step_000003"
    assert {row["step"] for row in read_rows(config.run_dir / METRICS)} == {1, 2, 3}
    audit = audit_run(config.run_dir)
    assert audit.is_sound
    assert (audit.starts, audit.steps, audit.consumed) == (2, 3, 6)
