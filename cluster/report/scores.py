"""What an evaluation scored, task by task, in the one form that runs are compared in.

scores.json, beside a run, holds a `RunScores`. A run that was only evaluated during training has
none: then its latest held-out results (heldout_*.json) and trajectories.jsonl say the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from cluster.report.summary import load_heldouts
from cluster.track.recorder import TRAJECTORIES, read_rows
from core.errors import ConfigError, DataError
from core.files import write_atomic

SCORES = "scores.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One task that has a score."""

    task_id: str
    prompt: str
    """Tasks of two runs are the same only when their prompts are."""
    groups: tuple[str, ...]
    """Whatever the task is counted under, e.g. ("biology",) or ("2 hops",)."""
    values: Mapping[str, float]
    """By metric; one that does not apply is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScores:
    name: str
    headline: str
    """The metric that counts most, e.g. "reward"."""
    made_with: Mapping[str, str]
    """What the numbers depend on beside the agent: judge, rubric, na_rule, image model, .."""
    tasks: tuple[TaskScore, ...]
    num_failed: int
    """Tasks without a score, by faults of ours."""


_SCORES: TypeAdapter[RunScores] = TypeAdapter(RunScores)


def save_scores(scores: RunScores, folder: Path) -> None:
    write_atomic(folder / SCORES, _SCORES.dump_json(scores))


def load_scores(folder: Path) -> RunScores:
    """Raises ConfigError for a folder without results, DataError for a file that cannot be read."""
    path = folder / SCORES
    if not path.is_file():
        return _heldout_scores(folder)
    try:
        return _SCORES.validate_json(path.read_bytes())
    except ValidationError as error:
        message = f"{path}: {error.errors()[0]['msg']}; evaluate the run again"
        raise DataError(message) from error


def _heldout_scores(folder: Path) -> RunScores:
    """The latest evaluation of a training run."""
    heldouts = load_heldouts(folder)
    if not heldouts:
        raise ConfigError(
            f"{folder} holds neither {SCORES} nor heldout_*.json; give the folder of a run that "
            "was evaluated, e.g. runs/demo"
        )
    latest = heldouts[-1]
    rows = {
        row["task"]["task_id"]: row
        for row in read_rows(folder / TRAJECTORIES)
        if row["mode"] == "eval" and "task" in row
    }
    return RunScores(
        name=folder.name,
        headline="reward",
        made_with=_made_with(folder, rows),
        tasks=tuple(
            TaskScore(
                task_id=result.task_id,
                prompt=_task_of(rows, result.task_id).get("prompt", ""),
                groups=_groups(_task_of(rows, result.task_id), hops=result.hops),
                values=result.values,
            )
            for result in latest.results
        ),
        num_failed=latest.failed,
    )


def _task_of(rows: Mapping[str, Mapping[str, Any]], task_id: str) -> Mapping[str, Any]:
    task: Mapping[str, Any] = rows.get(task_id, {}).get("task", {})
    return task


def _groups(task: Mapping[str, Any], *, hops: int) -> tuple[str, ...]:
    category = task.get("meta", {}).get("category", "")
    return (*((category,) if category else ()), f"{hops} hop{'' if hops == 1 else 's'}")


def _made_with(folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of the rows themselves where they say it, else of the run's config."""
    parts = [part for row in rows.values() for part in (row.get("score") or {}).get("parts", ())]
    judges = {part["provenance"]["judge"] for part in parts}
    rubrics = {part["provenance"]["prompt_sha"] for part in parts}
    drawn = [row["rendered"] for row in rows.values() if row.get("rendered")]
    made_with = {
        "judge": _joined(judges),
        "rubric": _joined(rubrics),
        "image model": _joined({image["request"]["model"] for image in drawn}),
    }
    path = folder / "config.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    reward = tree.get("reward", {})
    made_with["na_rule"] = str(reward.get("na_rule", ""))
    made_with["text weight"] = str(reward.get("text_weight", ""))
    return made_with


def _joined(names: set[str]) -> str:
    return ", ".join(sorted(filter(None, names)))
