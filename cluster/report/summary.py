"""Held-out results as numbers with intervals, and the run's summary.json.

In: graded members of one held-out evaluation. Out: a `Heldout` that is saved beside the run and
read back for the report, and `heldout.before/after/delta` of summary.json.

What counts, per metric:
- An episode that ended without an answer counts as 0 in every score: it is the agent's fault.
- A member that failed by a fault of ours has no value at all; `failed` counts them.
- text_accuracy leaves out pictures that hold no text.
- image_search_rate is over tasks that need an image.
- pick_accuracy is over episodes that chose a reference after seeing images, for tasks whose right
  reference is known; pick_chance is the accuracy of a blind choice among the images shown there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cluster.report.showcase import Showcase, make_showcase, tool_calls
from cluster.report.stats import Estimate, estimate, paired_difference
from core.files import write_atomic
from core.records import Answer, Member, Score, StopReason, Trajectory
from rewards.kscore import WEIGHTS
from rewards.reward import TEXT_PART, image_reward

METRICS = (
    "reward",
    "text_reward",
    "image_reward",
    *WEIGHTS,
    "valid_rate",
    "image_search_rate",
    "pick_accuracy",
    "pick_chance",
    "tool_calls",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The values of one held-out task; a metric that does not apply is not there."""

    task_id: str
    hops: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heldout:
    """One evaluation over the held-out tasks."""

    when: str
    """"before", "after" or "step"."""
    step: int
    n: int
    """Tasks that have a score."""
    failed: int
    """Tasks without one, by faults of ours."""
    flagged: int
    """Scored tasks in which a tool was broken: their score may be low by no fault of the agent."""
    estimates: Mapping[str, Estimate]
    by_hops: Mapping[int, Mapping[str, Estimate]]
    results: tuple[TaskResult, ...]
    showcases: tuple[Showcase, ...]


_HELDOUT: TypeAdapter[Heldout] = TypeAdapter(Heldout)


def make_heldout(members: Sequence[Member], *, when: str, step: int, num_showcase: int) -> Heldout:
    """`members` in the order of the tasks, one per task."""
    results = tuple(result for m in members if (result := task_result(m)) is not None)
    hops = sorted({result.hops for result in results})
    showcases = [make_showcase(member) for member in _spread(members, num_showcase)]
    return Heldout(
        when=when,
        step=step,
        n=len(results),
        failed=len(members) - len(results),
        flagged=sum(_met_a_broken_tool(member) for member in members),
        estimates=_estimates(results),
        by_hops={hop: _estimates([r for r in results if r.hops == hop]) for hop in hops},
        results=results,
        showcases=tuple(showcase for showcase in showcases if showcase is not None),
    )


def task_result(member: Member) -> TaskResult | None:
    """None when a fault of ours left no score."""
    trajectory, outcome = member.trajectory, member.outcome
    if trajectory is None or not isinstance(outcome, Score):
        return None
    task = trajectory.task
    values = {
        "reward": outcome.value,
        **_score_values(outcome),
        **episode_values(trajectory),
    }
    return TaskResult(task_id=task.task_id, hops=task.meta.hops, values=values)


def episode_values(trajectory: Trajectory) -> dict[str, float]:
    """The metrics of an episode that need no score."""
    values = {
        "valid_rate": float(trajectory.stop_reason is StopReason.ANSWER),
        "tool_calls": float(sum(turn.tool_call is not None for turn in trajectory.turns)),
    }
    if trajectory.task.meta.needs_image:
        values["image_search_rate"] = float(tool_calls(trajectory, "image_search") > 0)
    return {**values, **_pick_values(trajectory)}


def _met_a_broken_tool(member: Member) -> bool:
    trajectory = member.trajectory
    return isinstance(member.outcome, Score) and bool(trajectory and trajectory.tool_errors)


def heldout_json(heldout: Heldout) -> dict[str, Any]:
    """One side of summary.json's `heldout`."""
    return {
        "n": heldout.n,
        "failed": heldout.failed,
        "flagged": heldout.flagged,
        "step": heldout.step,
        **_metrics_json(heldout.estimates),
        "by_hops": {str(hop): _metrics_json(m) for hop, m in heldout.by_hops.items()},
    }


def delta_json(before: Heldout, after: Heldout) -> dict[str, Any]:
    """after - before, paired over the tasks that have a value on both sides."""
    earlier = {result.task_id: result for result in before.results}
    pairs = [(earlier[r.task_id], r) for r in after.results if r.task_id in earlier]
    hops = sorted({after_result.hops for _, after_result in pairs})
    return {
        "n": len(pairs),
        **_metrics_json(_differences(pairs)),
        "by_hops": {
            str(hop): _metrics_json(_differences([p for p in pairs if p[1].hops == hop]))
            for hop in hops
        },
    }


def save_heldout(heldout: Heldout, folder: Path) -> None:
    write_atomic(folder / _file_name(heldout.when, heldout.step), _HELDOUT.dump_json(heldout))


def load_heldouts(folder: Path) -> list[Heldout]:
    """All evaluations of a run, in the order of steps."""
    loaded = [_HELDOUT.validate_json(p.read_bytes()) for p in folder.glob("heldout_*.json")]
    return sorted(loaded, key=lambda heldout: (heldout.step, heldout.when == "after"))


def _file_name(when: str, step: int) -> str:
    return f"heldout_{when}.json" if when != "step" else f"heldout_step_{step:06d}.json"


def _score_values(score: Score) -> dict[str, float]:
    if not score.parts:
        return dict.fromkeys((TEXT_PART, "image_reward", *WEIGHTS), score.value)
    values = {part.name: part.value for part in score.parts if part.value is not None}
    return {**values, "image_reward": image_reward(score)}


def _pick_values(trajectory: Trajectory) -> dict[str, float]:
    truth, answer = trajectory.task.reference, trajectory.answer
    if truth is None or not trajectory.shown or not isinstance(answer, Answer):
        return {}
    if not answer.chosen:
        return {}
    shown = {image.ref.sha256 for _, image in trajectory.shown}
    return {
        "pick_accuracy": float(answer.chosen[0].sha256 == truth.sha256),
        "pick_chance": float(truth.sha256 in shown) / len(shown),
    }


def _estimates(results: Sequence[TaskResult]) -> dict[str, Estimate]:
    columns = {
        name: [result.values[name] for result in results if name in result.values]
        for name in METRICS
    }
    return {name: estimate(values) for name, values in columns.items() if values}


def _differences(pairs: Sequence[tuple[TaskResult, TaskResult]]) -> dict[str, Estimate]:
    differences = {}
    for name in METRICS:
        both = [(a.values[name], b.values[name]) for a, b in pairs if _has(name, a, b)]
        if both:
            differences[name] = paired_difference([a for a, _ in both], [b for _, b in both])
    return differences


def _has(name: str, before: TaskResult, after: TaskResult) -> bool:
    return name in before.values and name in after.values


def _metrics_json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {"mean": round(e.mean, 4), "ci95": [round(x, 4) for x in e.ci95], "n": e.n}
        if (e := estimates.get(name))
        else None
        for name in METRICS
    }


def _spread(members: Sequence[Member], count: int) -> list[Member]:
    """`count` members spread evenly over the hop counts, first tasks first."""
    by_hops: dict[int, list[Member]] = {}
    for member in members:
        if member.trajectory is not None:
            by_hops.setdefault(member.trajectory.task.meta.hops, []).append(member)
    picked: list[Member] = []
    while len(picked) < count and any(by_hops.values()):
        for hop in sorted(by_hops, reverse=True):
            if by_hops[hop] and len(picked) < count:
                picked.append(by_hops[hop].pop(0))
    return picked
