"""Writes that are whole or not there at all, after a crash at any moment too.

Each step of a write (open, write, fsync, rename) is announced before and after it to whoever
watches (`watched_writes`): nobody in a run; in the tests, a process that ends itself right there.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_watchers: list[Callable[[str], None]] = []


@contextmanager
def watched_writes(watcher: Callable[[str], None]) -> Iterator[None]:
    """`watcher` is told e.g. "before rename state.json"."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def write_step(name: str, path: Path) -> Iterator[None]:
    for watcher in _watchers:
        watcher(f"before {name} {path.name}")
    yield
    for watcher in _watchers:
        watcher(f"after {name} {path.name}")


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, fsync it, rename it, fsync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_beside(path)
    with write_step("open", path):
        file = draft.open("xb")
    try:
        with file:
            with write_step("write", path):
                file.write(data)
                file.flush()
            with write_step("fsync", path):
                os.fsync(file.fileno())
        with write_step("rename", path):
            os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    flush(path.parent)


def draft_beside(path: Path) -> Path:
    """A hidden name that nothing has yet, for what will be renamed to `path`. What is made there
    has the rights that the umask gives; tempfile's are for their maker's eyes alone, and a run on
    a shared disk is read by others."""
    return path.with_name(f".{path.name}.draft-{secrets.token_hex(6)}")


def write_json_atomic(path: Path, value: Any) -> None:
    """`value` as indented UTF-8 JSON, written atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def flush(path: Path) -> None:
    """fsync of a file, or of a folder's names."""
    with write_step("fsync", path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def flush_tree(folder: Path) -> None:
    """Every file and folder, the innermost first."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        flush(path)


def put_folder_in_place(draft: Path, folder: Path) -> None:
    """Rename a finished draft beside `folder` to it. An older one steps aside first, and is
    removed last; `clean_up` puts it back when a crash came in between."""
    aside = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        with write_step("rename", aside):
            os.rename(folder, aside)
    try:
        with write_step("rename", folder):
            os.rename(draft, folder)
    except BaseException:
        if aside.exists():
            os.rename(aside, folder)
        raise
    flush(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def clean_up(parent: Path) -> None:
    """After a crash: an older folder comes back where the new one did not take its place, and
    drafts go. Only while nothing is being written in `parent`."""
    for aside in parent.glob(".*.replaced"):
        folder = parent / aside.name.removeprefix(".").removesuffix(".replaced")
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, folder)
    for draft in parent.glob(".*.draft-*"):
        shutil.rmtree(draft, ignore_errors=True)


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below `folder`, by relative path."""
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
