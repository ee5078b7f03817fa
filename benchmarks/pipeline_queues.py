"""What it is worth that episodes wait for renders and verdicts (cluster/backlog.py), on a simulated
clock: the same tasks and the same seconds, with and without.

    python -m benchmarks.pipeline --queues --json

Speed is that of a whole run, from its first task to its last step. A warm-up must not be left out
here: in it a run without the rule gives verdicts to groups of later batches, and has less to do in
the steps that are measured. With the rule such a stock may be larger at the end, which a longer run
(`--steps`) makes small.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from actors.stats import EngineCounts, EngineStats, Gauges
from benchmarks.latencies import Profile
from benchmarks.pipeline_parts import MODES
from benchmarks.pipeline_simulated import Simulated, simulate_run

BATCHING = {"turns_at_once": 8, "generate_median_s": 48.0}
"""Engines that need all 64 episodes to be as fast as those of the stated profile."""
SLOW_RENDERS = {"render_s": (40.0, 120.0)}
SLOW_VERDICTS = {"judge_s": (40.0, 100.0)}
PROFILES: dict[str, dict[str, Any]] = {
    "stated": {},
    "renders a quarter slower": {"render_s": (25.0, 75.0)},
    "slow renders": SLOW_RENDERS,
    "slow verdicts": SLOW_VERDICTS,
    "batching engines": BATCHING,
    "batching engines, slow renders": BATCHING | SLOW_RENDERS,
    "batching engines, slow verdicts": BATCHING | SLOW_VERDICTS,
}
GROUP_SIZES = (6, 2)
SEEDS = ("", "a ", "b ")
FILLED = 1 + MODES["async"]
"""Steps after which the queues have their length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """Means over runs and their steps, but for the largest staleness."""

    groups_per_min: float
    staleness: float
    staleness_max: float
    render_oldest_s: float
    judge_oldest_s: float
    rollout_oldest_s: float


def measure_queues(*, steps: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    rows = []
    for name, change in PROFILES.items():
        for size in GROUP_SIZES:
            profiles = [Profile(seed=seed, group_size=size, **change) for seed in SEEDS]
            without = [_run(profile, steps=steps) for profile in profiles]
            held = [_run(profile, steps=steps, read_engines=_calm_engines) for profile in profiles]
            ratios = [without[n].ends[-1].at_s / held[n].ends[-1].at_s for n in range(len(SEEDS))]
            row = {
                "profile": name,
                "group_size": size,
                "without": asdict(_mean(without, profiles[0])),
                "with": asdict(_mean(held, profiles[0])),
                "speed_ratios": [round(ratio, 4) for ratio in ratios],
            }
            say(str(row))
            rows.append(row)
    return rows


def _run(profile: Profile, *, steps: int, **more: Any) -> Simulated:
    return simulate_run(profile, max_staleness=MODES["async"], steps=FILLED + steps, **more)


def _mean(runs: Sequence[Simulated], profile: Profile) -> Queued:
    reports = [report.metrics for run in runs for report in run.reports[FILLED:]]
    minutes = fmean(run.ends[-1].at_s for run in runs) / 60
    num_groups = len(runs[0].ends) * profile.groups_per_step

    def mean(name: str, digits: int = 0) -> float:
        return round(fmean(metrics[name] for metrics in reports), digits)

    return Queued(
        groups_per_min=round(num_groups / minutes, 3),
        staleness=mean("staleness/mean", 2),
        staleness_max=max(metrics["staleness/max"] for metrics in reports),
        render_oldest_s=mean("pools/render_oldest_s"),
        judge_oldest_s=mean("pools/judge_oldest_s"),
        rollout_oldest_s=mean("pools/rollout_oldest_s"),
    )


async def _calm_engines() -> Sequence[EngineStats]:
    """Their KV caches have room, so that only queues hold an episode back."""
    return [EngineCounts().stats(num_running=0, gauges=Gauges(kv_usage=0.0))]
