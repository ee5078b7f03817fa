"""Rows that are there again, and those that cannot be."""

from pathlib import Path

import pytest

from cluster.bench.journal import Journal
from cluster.bench.rows import Drawn, RenderRow
from tests.builders import make_image_ref


def test_rows_of_another_version_are_counted_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are made, and paid, anew."""
    path = tmp_path / "render.jsonl"
    drawn = Drawn(image=make_image_ref(), model="painter")
    row = RenderRow(task_id="1", of="a", by="b", outcome=drawn, seconds=1.0)
    journal = Journal(path, RenderRow)
    journal.put(row)
    journal.close()
    with path.open("a") as file:
        file.write('{"task_id": "2"}\n{"task_id": "3", "of')

    again = Journal(path, RenderRow)

    assert again.find("1", of="a", by="b") == row
    assert again.find("2", of="a", by="b") is None
    assert "1 rows are of another version" in caplog.text, "a torn row is no other version"
    again.close()
