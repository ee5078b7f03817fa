import json
import os
from pathlib import Path

import pytest

from core.files import write_atomic, write_json_atomic


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"

    write_atomic(path, b"one")
    write_atomic(path, b"two")

    assert path.read_bytes() == b"two"
    assert [child.name for child in path.parent.iterdir()] == ["b.bin"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "child").touch()

    with pytest.raises(OSError, match="directory"):
        write_atomic(path, b"a file cannot replace a folder")

    assert [child.name for child in tmp_path.iterdir()] == ["a"]


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)

    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_json_keeps_its_letters(tmp_path: Path) -> None:
    path = tmp_path / "x.json"

    write_json_atomic(path, {"name": "Zürich 北京", "n": 1})

    text = path.read_text(encoding="utf-8")
    assert "Zürich 北京" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {"name": "Zürich 北京", "n": 1}
