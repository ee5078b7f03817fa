"""A judge that drifts shows: fixed rows are judged again every `judge.canary_every` steps.

In: rows of (prompt, image, ground truth) and a judge without a cache. Out: `canary/*` metrics of a
step. The first asking is the baseline, kept in runs/<name>/canary.json together with what it was
asked of; another judge, rubric or set of rows starts a new one. A verdict that cannot be had is
counted and left out of both sides, never a number.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cluster.openers import Keys, open_judge
from core.config import Config
from core.errors import DataError, StageError
from core.files import write_json_atomic
from core.protocols import ImageStore, Judge
from core.records import ImageRef, Task, TaskMeta
from envs.images import FileImageStore
from envs.nano.canary import canary_rows
from rewards.aggregate import grades_of
from rewards.kscore import NaRule, kscore

logger = logging.getLogger(__name__)

BASELINE = "canary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRow:
    prompt: str
    image: ImageRef
    ground_truth: ImageRef


class Canary:
    """Ask it on one event loop."""

    def __init__(
        self,
        judge: Judge,
        rows: Sequence[CanaryRow],
        *,
        na_rule: NaRule,
        threshold: float,
        baseline_path: Path,
    ) -> None:
        self._judge = judge
        self._rows = tuple(rows)
        self._na_rule = na_rule
        self._threshold = threshold
        self._path = baseline_path

    async def spent_usd(self) -> float:
        return await self._judge.spent_usd()

    async def ask(self) -> Mapping[str, float]:
        """The metrics of one asking; the first one makes the baseline."""
        scores = await asyncio.gather(*(self._score(n, row) for n, row in enumerate(self._rows)))
        kept = self._baseline()
        # A row that had no verdict then is first scored now.
        baseline = [
            now if first is None else first for now, first in zip(scores, kept, strict=True)
        ]
        if baseline != kept:
            write_json_atomic(self._path, {"asked_of": self._asked_of(), "scores": baseline})
        failed = {"canary/failed": float(scores.count(None))}
        pairs = [
            (now, first)
            for now, first in zip(scores, baseline, strict=True)
            if now is not None and first is not None
        ]
        if not pairs:
            return failed
        drift = fsum(now - first for now, first in pairs) / len(pairs)
        alarm = abs(drift) > self._threshold
        if alarm:
            logger.warning(
                "the judge %s drifts: the canary set scores %+.3f against its first asking, which "
                "is further than judge.canary_threshold %g; rewards of earlier steps are not "
                "comparable with those of now",
                *(self._judge.name, drift, self._threshold),
            )
        return failed | {
            "canary/score": fsum(now for now, _ in pairs) / len(pairs),
            "canary/drift": drift,
            "canary/rows_changed": sum(now != first for now, first in pairs) / len(pairs),
            "canary/alarm": float(alarm),
        }

    async def _score(self, number: int, row: CanaryRow) -> float | None:
        """K of one row; None when there was no verdict."""
        task = Task(
            task_id=f"canary-{number}",
            ordinal=number,
            prompt=row.prompt,
            ground_truth=row.ground_truth,
            meta=TaskMeta(category="canary"),
        )
        try:
            verdict = await self._judge.judge_image(task=task, image=row.image)
        except StageError as error:
            logger.warning("canary row %d: %s", number, error)
            return None
        return kscore(grades_of(verdict), na_rule=self._na_rule)

    def _asked_of(self) -> dict[str, Any]:
        rows = [[row.prompt, row.image.sha256, row.ground_truth.sha256] for row in self._rows]
        return {
            "judge": self._judge.name,
            "prompt_sha": self._judge.prompt_sha,
            "na_rule": self._na_rule,
            "rows": rows,
        }

    def _baseline(self) -> list[float | None]:
        """The scores of the first asking, if it was the same that was asked; else none known."""
        unknown: list[float | None] = [None] * len(self._rows)
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            scores, asked_of = kept["scores"], kept["asked_of"]
        except (OSError, ValueError, LookupError, TypeError):
            return unknown
        same = asked_of == self._asked_of() and len(scores) == len(self._rows)
        return scores if same else unknown


def open_canary(config: Config, run_dir: Path, keys: Keys) -> Canary | None:
    """The recipe's canary set; None when it is off. Raises DataError for a bad file."""
    judge = config.judge
    if not judge.canary_every:
        return None
    store = FileImageStore(run_dir / "images")
    if judge.canary_file:
        rows = load_canary(Path(judge.canary_file), store=store)
    else:
        rows = tuple(
            CanaryRow(prompt=prompt, image=image, ground_truth=truth)
            for prompt, image, truth in canary_rows(store)
        )
    return Canary(
        open_judge(config, run_dir, keys, cached=False),
        rows,
        na_rule=config.reward.na_rule,
        threshold=judge.canary_threshold,
        baseline_path=run_dir / BASELINE,
    )


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: str
    image: str
    ground_truth: str


def load_canary(path: Path, *, store: ImageStore) -> tuple[CanaryRow, ...]:
    """A JSON list of {prompt, image, ground_truth}; images are paths beside the file."""
    try:
        rows = TypeAdapter(list[_Row]).validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"judge.canary_file: {path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise DataError(f"{path}, row {where}: {first['msg']}; mend that field") from error
    if not rows:
        raise DataError(f"{path} holds no rows; give at least one, or leave judge.canary_file out")

    def put(number: int, field: str, name: str) -> ImageRef:
        try:
            return store.put((path.parent / name).read_bytes())
        except (OSError, DataError) as error:
            raise DataError(
                f"{path}, row {number}, {field}: {name} cannot be read as an image ({error}); "
                "give a path beside the file"
            ) from error

    return tuple(
        CanaryRow(
            prompt=row.prompt,
            image=put(number, "image", row.image),
            ground_truth=put(number, "ground_truth", row.ground_truth),
        )
        for number, row in enumerate(rows)
    )
