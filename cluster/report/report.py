"""runs/<name>/report.html: one self-contained page that shows whether and why the agent got better.

In: the files of a run folder (summary.json, metrics.jsonl, events.jsonl, heldout_*.json, images).
Out: one HTML file without scripts or links to other files. A file that is missing leaves its
section saying so; a run without any metrics is a ConfigError.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster.report.charts import Curve, Interval, curves_chart
from cluster.report.gantt import Bar, gantt_chart
from cluster.report.pages import render_page
from cluster.report.showcase import Showcase
from cluster.report.summary import Heldout, load_heldouts
from cluster.track.recorder import EVENTS, read_rows, read_steps
from cluster.track.timeline import STAGES
from core.errors import ConfigError
from core.files import write_atomic

SUB_SCORES = ("faithfulness", "visual_correctness", "text_accuracy", "aesthetics")
MISMATCH_CURVES = ("learner/logprob_diff/text_mean", "learner/logprob_diff/after_image_mean")
TOOL_CURVES = ("tools/search", "tools/image_search", "tools/browse", "tools/calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same held-out prompt before and after training."""

    before: Showcase | None
    after: Showcase

    @property
    def gained(self) -> float:
        """Reward after less reward before; 0 where one of them is missing."""
        if self.before is None or self.before.reward is None or self.after.reward is None:
            return 0.0
        return self.after.reward - self.before.reward


def write_report(folder: Path) -> Path:
    """Draw the report of a run folder again from its files."""
    metrics = read_steps(folder)
    heldouts = load_heldouts(folder)
    if not metrics and not heldouts:
        raise ConfigError(f"{folder} holds no metrics.jsonl and no held-out results to report")
    page = render_page(
        "report.html.j2",
        name=folder.name,
        summary=_read_json(folder / "summary.json"),
        heldouts=heldouts,
        charts=_charts(metrics, heldouts),
        timeline=_timeline(folder / EVENTS),
        pairs=_pairs(heldouts),
        picture=_Pictures(folder / "images"),
    )
    path = folder / "report.html"
    write_atomic(path, page.encode())
    return path


def _charts(metrics: Sequence[Mapping[str, Any]], heldouts: Sequence[Heldout]) -> list[str]:
    return [
        curves_chart(
            "Reward in training, with held-out points",
            _curves(metrics, ("reward/mean", "reward/text_reward")),
            intervals=_intervals(heldouts, "reward"),
            unit=True,
        ),
        curves_chart(
            "Sub-scores",
            _curves(metrics, tuple(f"reward/{name}" for name in SUB_SCORES)),
            intervals=_intervals(heldouts, "visual_correctness"),
            unit=True,
        ),
        curves_chart("Tool calls per episode", _curves(metrics, TOOL_CURVES)),
        curves_chart(
            "Valid answers",
            _curves(metrics, ("episode/valid",)),
            intervals=_intervals(heldouts, "valid_rate"),
            unit=True,
        ),
        curves_chart(
            "Rollout against learner: log-probability gap",
            _curves(metrics, MISMATCH_CURVES),
        ),
        curves_chart(
            "Seconds per step",
            _curves(metrics, tuple(f"seconds/{stage}" for stage in _stages(metrics))),
        ),
    ]


def _curves(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Curve]:
    curves = []
    for name in names:
        points = tuple((float(row["step"]), float(row[name])) for row in metrics if name in row)
        if points:
            curves.append(Curve(label=name.rpartition("/")[2].replace("_", " "), points=points))
    return curves


def _stages(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    recorded = {key.removeprefix("seconds/") for row in metrics for key in row if "seconds/" in key}
    return [stage for stage in (*STAGES, "idle", "step") if stage in recorded]


def _intervals(heldouts: Sequence[Heldout], metric: str) -> list[Interval]:
    intervals = []
    for heldout in heldouts:
        found = heldout.estimates.get(metric)
        if found is not None:
            low, high = found.ci95
            label = f"held-out {heldout.when}, {found.n} tasks"
            intervals.append(
                Interval(label=label, x=heldout.step, mean=found.mean, low=low, high=high)
            )
    return intervals


def _timeline(events: Path) -> str:
    """One step in the middle of the run, from one version on the workers to the next. The file is
    read twice: a long run's spans fill the memory."""
    broadcasts = sorted(
        (float(span["end_s"]), int(span["item"].removeprefix("version ")))
        for span in _spans(events)
        if span["kind"] == "broadcast"
    )
    steps = [
        (start_s, end_s, version)
        for (start_s, before), (end_s, version) in pairwise(broadcasts)
        if version == before + 1  # else a checkpoint was taken up in between
    ]
    if not steps:
        return gantt_chart("One step", {}, start_s=0.0, end_s=0.0)
    start_s, end_s, version = steps[(len(steps) - 1) // 2]
    lanes: dict[str, list[Bar]] = {stage: [] for stage in STAGES}
    inside = [
        span
        for span in _spans(events)
        if float(span["end_s"]) > start_s and float(span["start_s"]) < end_s
    ]
    for span in sorted(inside, key=lambda span: float(span["start_s"])):
        label = f"{span['kind']} {span['item']}"
        bar = Bar(label=label, start_s=float(span["start_s"]), end_s=float(span["end_s"]))
        lanes[span["kind"]].append(bar)
    title = f"Step {version} of {max(last for _, last in broadcasts)}"
    return gantt_chart(title, lanes, start_s=start_s, end_s=end_s)


def _spans(events: Path) -> Iterator[Mapping[str, Any]]:
    return (row for row in read_rows(events) if row["event"] == "span")


def _pairs(heldouts: Sequence[Heldout]) -> list[Pair]:
    """Pairs by gain, the largest first; without an evaluation before, each stands alone."""
    if not heldouts:
        return []
    first, last = heldouts[0], heldouts[-1]
    earlier = {s.task_id: s for s in first.showcases} if first is not last else {}
    pairs = [Pair(before=earlier.get(s.task_id), after=s) for s in last.showcases]
    return sorted(pairs, key=lambda pair: pair.gained, reverse=True)


class _Pictures:
    """Digest -> data URI, from the run's image folder; None when the file is not there."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.stem: path for path in folder.rglob("*") if path.is_file()}

    def __call__(self, sha256: str | None) -> str | None:
        path = self._files.get(sha256 or "")
        if path is None:
            return None
        data = path.read_bytes()
        kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
