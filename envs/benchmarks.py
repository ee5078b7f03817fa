"""Benchmarks as tasks: KnowGen, WISE in both editions, AgentGen-Bench rows and GenEval prompts.

In: files of the user's own checkout; none of them is part of this repository. Out: `BenchTask`s in
the order of the file; `pick` draws a fixed part of them. Fails with ConfigError when there is no
such file, with DataError for a bad row: file, row, field, mend.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.benchmarks import CATEGORY_GROUPS
from core.errors import ConfigError, DataError
from core.protocols import ImageStore
from core.records import Task, TaskMeta
from envs.tasks import RowTasks, load_rows

PromptFormat = Literal["agentgen", "geneval"]
T = TypeVar("T")

PICK_SEED = 0
"""`pick` draws the same rows in every run, so that runs can be compared."""
WISE_FILES = re.compile(r"(cultural|spatio|natural)\w*[-_ ].*\.json", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTask:
    """A task, and what the benchmark's own tools want to read again in a result."""

    task: Task
    row_id: int | str
    """As the file writes it; `task.task_id` is the same as text."""
    label: str
    """The category as the file writes it."""
    subcategory: str = ""
    truth_path: str = ""
    """Where the ground-truth image was; "" when there is none."""
    source: str = ""
    """The row as its file has it, where the benchmark's own tools ask for it again (GenEval)."""


def load_knowgen(path: Path, *, images: ImageStore) -> tuple[BenchTask, ...]:
    """`KnowGen-Bench.json`; the ground-truth images are put into the store."""
    _refuse_no_file(path)
    rows = load_rows(path, categories=tuple(CATEGORY_GROUPS))
    tasks = RowTasks(rows, seed=PICK_SEED, shuffle=False, images=images)
    return tuple(
        BenchTask(
            task=tasks.task(ordinal),
            row_id=row.row_id,
            label=row.label,
            truth_path=str(row.image_path.resolve()),
        )
        for ordinal, row in enumerate(rows)
    )


class _WiseRow(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    prompt_id: int
    Prompt: str = Field(pattern=r"\S")
    Explanation: str = Field(pattern=r"\S")
    Category: str = ""
    Subcategory: str = ""


def load_wise(path: Path, *, category_of: Callable[[int], str]) -> tuple[BenchTask, ...]:
    """A file of rows (`merge.json`, one category's), or the folder of the category files.

    In a folder, `merge.json` and the rewritten prompts (`*_rewrite*`) are left alone.
    `category_of` says which of the six categories an id belongs to, and raises DataError for none.
    """
    read = [item for file in _wise_files(path) for item in _read_rows(file, _WiseRow)]
    _refuse_double_ids([(place, str(row.prompt_id)) for place, row in read])
    tasks = []
    for place, row in sorted(read, key=lambda item: item[1].prompt_id):
        try:
            category = category_of(row.prompt_id)
        except DataError as error:
            raise DataError(f"{place}: prompt_id: {error}; mend or remove the row") from error
        task = Task(
            task_id=str(row.prompt_id),
            ordinal=row.prompt_id,
            prompt=row.Prompt,
            ground_truth=None,
            rubric=row.Explanation,
            meta=TaskMeta(category=category),
        )
        tasks.append(
            BenchTask(
                task=task,
                row_id=row.prompt_id,
                label=row.Category,
                subcategory=row.Subcategory,
            )
        )
    return tuple(tasks)


class _AgentGenRow(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    bench_id: str = Field(pattern=r"\S")
    user_prompt: str = Field(pattern=r"\S")
    domain: str = ""


class _GenEvalRow(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    prompt: str = Field(pattern=r"\S")
    tag: str = ""


def load_prompts(path: Path, *, format: PromptFormat) -> tuple[BenchTask, ...]:
    """Prompts without a ground truth: AgentGen-Bench's metadata, or GenEval's JSON lines.

    A GenEval prompt is named by its place in the file, as its own tools do: "00000", "00001", ..
    """
    if format == "agentgen":
        read = _read_rows(path, _AgentGenRow)
        _refuse_double_ids([(place, row.bench_id) for place, row in read])
        found = [(row.bench_id, row.user_prompt, row.domain) for _, row in read]
    else:
        lines = _read_rows(path, _GenEvalRow)
        found = [(f"{n:05d}", row.prompt, row.tag) for n, (_, row) in enumerate(lines)]
    sources = [json.dumps(value, ensure_ascii=False) for value in _parse(path)]
    return tuple(
        BenchTask(
            task=Task(
                task_id=name,
                ordinal=ordinal,
                prompt=prompt,
                ground_truth=None,
                meta=TaskMeta(category=label.strip().lower() or "all"),
            ),
            row_id=name,
            label=label,
            source=sources[ordinal],
        )
        for ordinal, (name, prompt, label) in enumerate(found)
    )


def pick(items: Sequence[T], limit: int | None) -> tuple[T, ...]:
    """At most `limit` of the items: always the same ones, in their own order."""
    if limit is None or limit >= len(items):
        return tuple(items)
    places = random.Random(f"pick {PICK_SEED}").sample(range(len(items)), limit)
    return tuple(items[place] for place in sorted(places))


def _wise_files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    files = [
        file
        for file in sorted(path.glob("*.json"))
        if WISE_FILES.fullmatch(file.name) and "_rewrite" not in file.name
    ]
    if not files:
        raise ConfigError(
            f"--data {path} holds none of WISE's category files (cultural_common_sense*.json, ..); "
            "give the data folder of the edition, or one file"
        )
    yield from files


_Row = TypeVar("_Row", bound=BaseModel)


def _read_rows(path: Path, kind: type[_Row]) -> list[tuple[str, _Row]]:
    """(place, row) of a JSON list or of JSON lines. Raises ConfigError, DataError."""
    _refuse_no_file(path)
    values = _parse(path)
    if not values:
        raise DataError(f"{path} holds no rows; download it again")
    return [_checked(f"{path} row {number}", value, kind) for number, value in enumerate(values)]


def _refuse_no_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"--data: there is no file {path}; give the path of the benchmark's file")


def _parse(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        if text.lstrip().startswith("["):
            values: list[Any] = json.loads(text)
            return values
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        message = f"{path} is neither a JSON list nor JSON lines ({error})"
        raise DataError(f"{message}; download it again") from error


def _checked(place: str, value: Any, kind: type[_Row]) -> tuple[str, _Row]:
    try:
        return place, kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "row"
        message = f"{place}: {field}: {first['msg']}"
        raise DataError(f"{message}; mend or remove the row") from error


def _refuse_double_ids(found: Sequence[tuple[str, str]]) -> None:
    first_place: dict[str, str] = {}
    for place, name in found:
        if (other := first_place.setdefault(name, place)) != place:
            raise DataError(f"{place}: id {name} is also that of {other}; give every row its own")
