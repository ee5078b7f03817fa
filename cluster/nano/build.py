"""`gensearcher nano build`: both nano models from their seeded recipes, with progress shown.

Leaves: out/policy and out/renderer. A build that was interrupted goes on from its last saved
state; the recipes themselves are in cluster/nano/policy.py and cluster/nano/renderer.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.nano.policy import build_policy
from cluster.nano.renderer import build_renderer


class Report(Protocol):
    """What both recipes tell of themselves."""

    @property
    def step(self) -> int: ...

    @property
    def num_steps(self) -> int: ...

    @property
    def loss(self) -> float: ...


def build_nano(
    out: Path, *, seed: int, part: Literal["policy", "renderer", "both"], console: Console
) -> None:
    """Build what is asked for; about half an hour for both on one core."""
    if part in ("renderer", "both"):
        with shown(console, "renderer") as bar:
            build_renderer(out / "renderer", seed=seed, progress=bar)
    if part in ("policy", "both"):
        with shown(console, "policy") as bar:
            build_policy(out / "policy", seed=seed, progress=bar)


class Bar:
    """Called by a recipe after its steps."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, loss="")

    def __call__(self, report: Report) -> None:
        self._progress.update(
            self._task,
            completed=report.step,
            total=report.num_steps,
            loss=f"loss {report.loss:.4f}",
        )


@contextmanager
def shown(console: Console, title: str) -> Iterator[Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(progress, title)
