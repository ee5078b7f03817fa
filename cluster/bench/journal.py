"""Rows on disk, one file per stage, only ever appended to: a row is whole on disk or not there.

`put` returns when the row has reached the disk (fsync), so what was counted is never lost. Reading
skips a torn tail. The latest row of a task counts.
"""

import logging
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from cluster.bench.rows import AgentRow, JudgeRow, RenderRow
from cluster.track.recorder import JsonLines, read_rows

logger = logging.getLogger(__name__)

Row = TypeVar("Row", AgentRow, RenderRow, JudgeRow)


class Journal(Generic[Row]):
    """The rows of one stage."""

    def __init__(self, path: Path, kind: type[Row]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._adapter: TypeAdapter[Row] = TypeAdapter(kind)
        self._rows: dict[str, Row] = {}
        foreign = 0
        for raw in read_rows(path):
            try:
                row = self._adapter.validate_python(raw)
            except ValidationError:
                foreign += 1
                continue
            self._rows[row.task_id] = row
        if foreign:
            message = "%s: %d rows are of another version of gensearcher, and are made anew"
            logger.warning(message, path, foreign)
        self._file = JsonLines(path)

    def find(self, task_id: str, *, of: str, by: str | None) -> Row | None:
        """The row made of this by that, a failed one included; `by=None` takes any maker's."""
        row = self._rows.get(task_id)
        if row is None or row.of != of or by not in (None, row.by):
            return None
        return row

    def put(self, row: Row) -> None:
        """Keep a row; it is on disk when this returns."""
        self._file.write(self._adapter.dump_python(row, mode="json"))
        self._file.flush()
        self._rows[row.task_id] = row

    def close(self) -> None:
        self._file.close()


class Journals:
    """The three files of an evaluation, under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.agent = Journal(folder / "agent.jsonl", AgentRow)
        self.render = Journal(folder / "render.jsonl", RenderRow)
        self.judge = Journal(folder / "judge.jsonl", JudgeRow)

    def close(self) -> None:
        for journal in (self.agent, self.render, self.judge):
            journal.close()
