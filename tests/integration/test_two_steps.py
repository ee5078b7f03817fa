"""Two training steps of the nano recipe on a local Ray with every real engine, then a resume.

vLLM in an EnvRunner, the search actor over the nano world, diffusers behind Serve, the pixel
judge, DeepSpeed in a LearnerGroup, weights through the object store; then a second start of the
same run, which goes on from its checkpoint.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.check.audit import audit_run
from cluster.launch import launch
from cluster.track.recorder import METRICS, TRAJECTORIES, read_rows
from cluster.track.status import StepReport
from core.config import Config, load_config
from tests.documented_metrics import undocumented

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(
        "nano",
        overrides=[
            "run.name=two",
            f"run.root={tmp_path}",
            "rollout.kv_cache_gib=0.2",
            "rollout.max_sequences=16",
            "train.steps=3",
            "train.groups_per_step=2",
            "train.group_size=4",
            "train.checkpoint_every=1",
            "eval.num_tasks=4",
        ],
    )


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests were started in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_two_steps_then_ctrl_c_then_the_third_from_the_checkpoint(config: Config) -> None:
    reports: list[StepReport] = []

    def interrupt_when_busy() -> None:
        while not system.status().in_flight.get("rollout"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def on_step(report: StepReport) -> None:
        reports.append(report)
        if report.step == 2:
            threading.Thread(target=interrupt_when_busy, daemon=True).start()

    with pytest.raises(KeyboardInterrupt), launch(config) as system:
        system.train(on_step=on_step)
    assert [report.step for report in reports] == [1, 2]
    check_files(config)

    with launch(config, resume=True) as system:
        assert system.step == 2
        system.train(on_step=reports.append)
        result = system.evaluate()
        status = system.status()
    assert [report.step for report in reports] == [1, 2, 3]
    check_steps(reports)
    assert (result.policy_version, result.num_failed) == (3, 0)
    assert status.tool_calls > 0
    assert [row["step"] for row in read_rows(config.run_dir / METRICS)] == [1, 2, 3]
    audit = audit_run(config.run_dir)
    assert audit.is_sound
    assert (audit.starts, audit.steps, audit.consumed) == (2, 3, 6)


def check_steps(reports: list[StepReport]) -> None:
    """The learner sees the rollouts' probabilities, and each step really changes the policy."""
    for report in reports:
        metrics = report.metrics
        assert undocumented(metrics) == []
        assert metrics["staleness/max"] == 0
        assert metrics["learner/logprob_diff/text_max"] < 1e-4
        assert metrics.get("learner/logprob_diff/after_image_max", 0.0) < 1e-4
        assert metrics["learner/grad_norm"] > 0
        assert metrics["groups/consumed"] == 2
        assert metrics["groups/failed"] == 0


def check_files(config: Config) -> None:
    rows = list(read_rows(config.run_dir / TRAJECTORIES))
    trained = [row for row in rows if row["mode"] == "train"]
    assert all("score" in row for row in trained)
    assert any(row["rendered"] for row in trained), "nothing was rendered"
    assert any(row["shown"] for row in trained), "no image was found"
    versions = {
        span[0] for row in trained for turn in row["turns"] for span in turn["policy_versions"]
    }
    assert {0, 1} <= versions
    names = sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())
    assert names == ["step_000001", "step_000002"]
