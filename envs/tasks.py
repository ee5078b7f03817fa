"""Tasks to train and to evaluate on: the nano world, `rl_data.json` rows, KnowGen rows.

In: a config and the image store. Out: for training a stream `task(ordinal)` without end, in which
equal seeds and ordinals give equal tasks, so that it resumes anywhere; for evaluation a finite
tuple. Ground-truth files are named by path until a task is drawn, so only their paths are held in
memory. Fails with ConfigError for a bad setting, with DataError for a bad row: file, row, field,
mend.
"""

import difflib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from core.benchmarks import CATEGORY_GROUPS
from core.config import Config
from core.errors import ConfigError, DataError
from core.protocols import ImageStore
from core.records import ImageRef, Task, TaskMeta
from envs.nano.names import Split
from envs.nano.tasks import QuestStream, make_task
from envs.nano.world import World

HELDOUT_SEED = 0
"""Held-out tasks are the same for every seed of a run, so that runs can be compared."""
MAX_HELDOUT_SHARE = 0.1
"""Of the rows of one file that serves for training and evaluation."""
UNKNOWN_CATEGORY = "unknown"


class TaskSource(Protocol):
    def task(self, ordinal: int) -> Task:
        """The task at this place of the stream. Raises DataError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One checked row of a JSON file."""

    place: str
    """File and row, for messages."""
    row_id: int | str
    """As the file writes it; the task's id is the same as text."""
    prompt: str
    image_path: Path
    """Of the ground truth."""
    label: str
    """The category as the file writes it."""
    difficulty: str

    @property
    def task_id(self) -> str:
        return str(self.row_id)

    @property
    def category(self) -> str:
        return self.label.strip().lower()


class NanoTasks:
    """The tasks of one split of the nano world."""

    def __init__(self, world: World, split: Split, *, seed: int, images: ImageStore) -> None:
        self._stream = QuestStream(world, split, seed=seed)
        self._split: Split = split
        self._images = images

    def task(self, ordinal: int) -> Task:
        quest = self._stream.quest(ordinal)
        return make_task(quest, split=self._split, ordinal=ordinal, store=self._images)


class RowTasks:
    """The rows of a file, epoch after epoch; each epoch in an order of its own if `shuffle`."""

    def __init__(
        self, rows: Sequence[TaskRow], *, seed: int, shuffle: bool, images: ImageStore
    ) -> None:
        self._rows = rows
        self._seed = seed
        self._shuffle = shuffle
        self._images = images
        self._refs: dict[Path, ImageRef] = {}
        self._order: tuple[int, Sequence[int]] = (0, self._order_of(0))

    def __len__(self) -> int:
        """Tasks of one epoch."""
        return len(self._rows)

    def task(self, ordinal: int) -> Task:
        epoch, place = divmod(ordinal, len(self._rows))
        if self._order[0] != epoch:
            self._order = (epoch, self._order_of(epoch))
        row = self._rows[self._order[1][place]]
        return Task(
            task_id=row.task_id,
            ordinal=ordinal,
            prompt=row.prompt,
            ground_truth=self._ground_truth(row),
            meta=TaskMeta(category=row.category, difficulty=row.difficulty),
        )

    def _order_of(self, epoch: int) -> Sequence[int]:
        numbers = range(len(self._rows))
        if not self._shuffle:
            return numbers
        return random.Random(f"rows {self._seed} {epoch}").sample(numbers, len(numbers))

    def _ground_truth(self, row: TaskRow) -> ImageRef:
        if row.image_path not in self._refs:
            try:
                self._refs[row.image_path] = self._images.put(row.image_path.read_bytes())
            except (OSError, DataError) as error:
                message = f"{row.place}: gt_image: {row.image_path} cannot be used: {error}"
                raise DataError(f"{message}; replace the image or remove the row") from error
        return self._refs[row.image_path]


def open_train_tasks(config: Config, *, images: ImageStore) -> TaskSource:
    """The endless stream that `train` draws from. Raises ConfigError, DataError."""
    tasks = config.tasks
    match tasks.source:
        case "nano":
            return NanoTasks(World(), "train", seed=config.run.seed, images=images)
        case "rl_data":
            rows, _ = _split_rows(load_rows(_path_of(config)), num_heldout=config.eval.num_tasks)
            return RowTasks(rows, seed=config.run.seed, shuffle=tasks.shuffle, images=images)
        case "knowgen":
            raise ConfigError(
                "tasks.source: 'knowgen' is a benchmark, not training data; "
                "set tasks.source=rl_data to train, or run `gensearcher eval`"
            )


def open_heldout_tasks(config: Config, *, images: ImageStore) -> tuple[Task, ...]:
    """At most `eval.num_tasks` tasks that training never draws. Raises ConfigError, DataError."""
    num = config.eval.num_tasks
    source: TaskSource
    match config.tasks.source:
        case "nano":
            source = NanoTasks(World(), "heldout", seed=HELDOUT_SEED, images=images)
        case "rl_data":
            _, rows = _split_rows(load_rows(_path_of(config)), num_heldout=num)
            num = len(rows)
            source = RowTasks(rows, seed=HELDOUT_SEED, shuffle=False, images=images)
        case "knowgen":
            rows = load_rows(_path_of(config), categories=tuple(CATEGORY_GROUPS))
            num = min(num, len(rows))
            source = RowTasks(rows, seed=HELDOUT_SEED, shuffle=True, images=images)
    return tuple(source.task(ordinal) for ordinal in range(num))


class _Meta(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    category: str = UNKNOWN_CATEGORY
    difficulty: str = ""


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    id: int | str
    prompt: str = Field(pattern=r"\S")
    gt_image: str = Field(min_length=1, validation_alias=AliasChoices("gt_image", "gen_image"))
    meta: _Meta = _Meta()


def load_rows(path: Path, *, categories: Sequence[str] | None = None) -> tuple[TaskRow, ...]:
    """The rows of `rl_data.json` or `KnowGen-Bench.json`, each checked, its image file included.

    Image paths are relative to the JSON file. Keys that are not known are ignored. `categories`:
    the only ones allowed. Raises ConfigError when there is no file, DataError for its content.
    """
    if not path.is_file():
        raise ConfigError(f"tasks.path: there is no file {path}; give the path of the JSON file")
    try:
        raw = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{path} must hold a list of rows, with at least one row")
    rows = tuple(_row(path, number, value, categories) for number, value in enumerate(raw))
    first_place: dict[str, str] = {}
    for row in rows:
        other = first_place.setdefault(row.task_id, row.place)
        if other != row.place:
            message = f"{row.place}: id: {row.task_id!r} is also the id of {other}"
            raise DataError(f"{message}; give every row its own id")
    return rows


def _row(path: Path, number: int, value: Any, categories: Sequence[str] | None) -> TaskRow:
    place = f"{path} row {number}"
    try:
        row = _Row.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "row"
        message = f"{place}: {field}: {first['msg']}"
        raise DataError(f"{message}; mend or remove the row") from error
    category = row.meta.category.strip().lower()
    if categories is not None and category not in categories:
        near = difflib.get_close_matches(category, categories, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(categories)}"
        raise DataError(f"{place}: meta.category: {row.meta.category!r} is not known; {mend}")
    image_path = path.parent / row.gt_image
    if not image_path.is_file():
        message = f"{place}: gt_image: there is no file {image_path}"
        raise DataError(f"{message}; unpack the images beside the JSON file or remove the row")
    return TaskRow(
        place=place,
        row_id=row.id,
        prompt=row.prompt,
        image_path=image_path,
        label=row.meta.category,
        difficulty=row.meta.difficulty,
    )


def _split_rows(
    rows: tuple[TaskRow, ...], *, num_heldout: int
) -> tuple[tuple[TaskRow, ...], tuple[TaskRow, ...]]:
    """(train, held-out): a fixed draw that does not depend on the run's seed."""
    if len(rows) < 2:
        raise DataError(f"{rows[0].place} is the only row; training and evaluation need one each")
    num_heldout = min(num_heldout, max(1, int(len(rows) * MAX_HELDOUT_SHARE)))
    numbers = random.Random(f"heldout {HELDOUT_SEED}").sample(range(len(rows)), num_heldout)
    heldout = frozenset(numbers)
    train = tuple(row for number, row in enumerate(rows) if number not in heldout)
    return train, tuple(rows[number] for number in numbers)


def _path_of(config: Config) -> Path:
    if config.tasks.path is None:
        raise ConfigError(
            f"tasks.path: none is set; tasks.source={config.tasks.source} needs its JSON file"
        )
    return Path(config.tasks.path)
