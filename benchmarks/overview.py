"""How fast the whole nano loop runs, one stage after the other and with one step of overlap.

    python -m benchmarks.overview --json

Both runs use the real engines on the shipped nano models, in turn, in the same process; the first
steps of each are left out as warm-up. Seconds of a stage are those in which at least one piece of
that work ran, so they overlap and may add up to more than the step.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import fmean

from benchmarks.machine import machine
from cluster.launch import launch
from cluster.track.status import StepReport
from cluster.track.timeline import STAGES
from core.config import load_config

WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Means over the measured steps of one run."""

    steps: int
    step_s: float
    trajectories_per_s: float
    tokens_per_s: float
    """Sampled tokens of consumed trajectories."""
    seconds: dict[str, float]
    """Per step, by stage."""
    reward: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each run")
    parser.add_argument("--recipe", default="nano")
    arguments = parser.parse_args()
    result = {
        "benchmark": "overview",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "recipe": arguments.recipe,
    }
    for name, max_staleness in (("sync", 0), ("one_step_overlap", 1)):
        measured = measure(arguments.recipe, steps=arguments.steps, max_staleness=max_staleness)
        result[name] = asdict(measured)
        if not arguments.json:
            print(f"{name}: {measured.step_s:.2f} s a step, {measured.tokens_per_s:.0f} tokens/s")
    print(json.dumps(result))


def measure(recipe: str, *, steps: int, max_staleness: int) -> Measured:
    """Train for a while in a folder that is thrown away, and average what the steps report."""
    with tempfile.TemporaryDirectory(prefix="overview-") as folder:
        total = steps + WARM_UP_STEPS
        changes = [
            f"run.root={folder}",
            f"train.steps={total}",
            f"train.checkpoint_every={total}",
            f"train.max_staleness={max_staleness}",
            "wandb.mode=disabled",
        ]
        config = load_config(recipe, overrides=changes)
        reports: list[StepReport] = []
        ends_s: list[float] = []

        def on_step(report: StepReport) -> None:
            reports.append(report)
            ends_s.append(time.monotonic())

        with launch(config) as system:
            system.train(on_step=on_step)
    measured = [report.metrics for report in reports[WARM_UP_STEPS:]]
    elapsed_s = ends_s[-1] - ends_s[WARM_UP_STEPS - 1]
    samples = sum(metrics["learner/samples"] for metrics in measured)
    tokens = sum(metrics["learner/tokens"] for metrics in measured)
    stages = (*STAGES, "idle")
    return Measured(
        steps=steps,
        step_s=round(elapsed_s / steps, 3),
        trajectories_per_s=round(samples / elapsed_s, 3),
        tokens_per_s=round(tokens / elapsed_s, 1),
        seconds={s: round(fmean(m[f"seconds/{s}"] for m in measured), 3) for s in stages},
        reward=round(fmean(metrics["reward/mean"] for metrics in measured), 4),
    )


if __name__ == "__main__":
    main()
