"""A store as one portable file, and back: a tar of JSON lines and of files by their sha256.

    manifest.json          {"format": "gensearcher-store", "version": 1, "entries": n, ...}
    entries.jsonl          one row per entry, in the order of keys
    observations.jsonl     what a recording saw
    blobs/<sha256>         texts of pages, and images

Nothing in it is pickled, and nothing is extracted to a path that the archive names: a member is
read into memory and kept under the digest that it was checked against. Equal stores give equal
archives. Raises DataError for an archive that cannot be trusted; then nothing was imported.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.errors import ConfigError, DataError
from core.files import draft_beside
from core.records import FoundImage, ImageRef
from envs.images import image_ref
from envs.provider import Page, SearchHit
from envs.store.store import DamagedError, Observation, Store, look_up, own_blob
from envs.store.values import Kind, Operation, State, canonical_json, decode

FORMAT = "gensearcher-store"
VERSION = 1
MAX_TABLE_BYTES = 4 << 30
MAX_BLOB_BYTES = 256 << 20

_Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
_Count = Field(ge=0, lt=2**31)
_Number = Field(ge=0, allow_inf_nan=False)

_VALUES: Mapping[Kind, TypeAdapter[Any]] = {
    Kind.SEARCH: TypeAdapter(tuple[SearchHit, ...]),
    Kind.IMAGE_SEARCH: TypeAdapter(tuple[FoundImage, ...]),
    Kind.PAGE: TypeAdapter(Page | None),
    Kind.SUMMARY: TypeAdapter(str),
}
"""Types are checked: a row comes from a stranger."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Manifest(_Row):
    format: str
    version: int
    entries: int
    observations: int
    blobs: int


class _EntryRow(_Row):
    key: str = _Sha256
    kind: str
    arguments: str
    version: str
    provider: str
    state: str
    value: str
    upstream_calls: int = _Count
    cost_usd: float = _Number
    created_s: float = _Number
    texts: tuple[str, ...]
    images: tuple[str, ...]


class _ObservationRow(_Row):
    call_key: str = _Sha256
    call: str
    digest: str = _Sha256
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What an export or an import took along."""

    entries: int
    observations: int
    blobs: int


def export_store(store: Store, path: Path) -> Moved:
    """Write everything to `path`, whole or not at all. Raises DamagedError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_beside(path)
    try:
        with draft.open("xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                moved = _export(store, tar)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return moved


def import_store(path: Path, folder: Path) -> Moved:
    """Add an archive to the store in `folder`, made there when it is missing and the archive good.
    What the store has already stays as it is."""
    if not path.is_file():
        raise ConfigError(f"there is no archive {path}")
    try:
        with tarfile.open(path, mode="r:") as tar:
            return _import(_Archive(tar, path), folder)
    except tarfile.TarError as error:
        raise DataError(f"{path} is no archive of a store ({error}); export it again") from error


def _export(store: Store, tar: tarfile.TarFile) -> Moved:
    entries = list(_entry_rows(store))
    observations = sorted(store.observations().values(), key=lambda seen: seen.call_key)
    blobs = {sha: store.texts for row in entries for sha in row["texts"]}
    blobs |= {sha: store.images for row in entries for sha in row["images"]}
    moved = Moved(entries=len(entries), observations=len(observations), blobs=len(blobs))
    manifest = _Manifest(
        format=FORMAT,
        version=VERSION,
        entries=moved.entries,
        observations=moved.observations,
        blobs=moved.blobs,
    )
    _add(tar, "manifest.json", manifest.model_dump_json().encode())
    _add(tar, "entries.jsonl", _lines(entries))
    seen = [
        _ObservationRow(
            call_key=one.call_key, call=one.call, digest=one.digest, failed=one.failed
        ).model_dump()
        for one in observations
    ]
    _add(tar, "observations.jsonl", _lines(seen))
    for sha256 in sorted(blobs):
        data = blobs[sha256].read(sha256)
        if data is None:
            raise DamagedError(
                f"{sha256} is missing or has changed on disk; see `corpus verify`",
                retryable=False,
            )
        _add(tar, f"blobs/{sha256}", data)
    return moved


def _entry_rows(store: Store) -> Iterator[dict[str, Any]]:
    statement = (
        "SELECT key, kind, arguments, version, provider, state, value, upstream_calls, cost_usd, "
        "created_s FROM entries ORDER BY key"
    )
    for row in store.rows(statement):
        values = dict(zip(_EntryRow.model_fields, row, strict=False))
        texts, images = _cited(values["kind"], values["state"], values["value"])
        yield values | {"texts": texts, "images": tuple(ref.sha256 for ref in images)}


def _cited(kind: str, state: str, value: str) -> tuple[tuple[str, ...], tuple[ImageRef, ...]]:
    """Digests of the texts, and the images, that a value names."""
    texts: list[str] = []
    if state == State.ERROR:
        return (), ()

    def read_text(sha256: str) -> str:
        texts.append(sha256)
        return ""

    decoded = _VALUES[Kind(kind)].validate_python(
        decode(Kind(kind), value, read_text=read_text), strict=True
    )
    images = tuple(image.ref for image in decoded) if kind == Kind.IMAGE_SEARCH else ()
    return tuple(texts), images


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(canonical_json(row) + "\n" for row in rows).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))


class _Archive:
    """An archive that somebody gave us."""

    def __init__(self, tar: tarfile.TarFile, path: Path) -> None:
        self._tar = tar
        self._path = path
        self._members = {member.name: member for member in tar.getmembers() if member.isreg()}

    def read(self, name: str, *, max_bytes: int) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise self.bad(f"{name} is missing")
        if member.size > max_bytes:
            raise self.bad(f"{name} has {member.size} bytes")
        file = self._tar.extractfile(member)
        assert file is not None, "it is a regular file"
        return file.read()

    def blob(self, sha256: str) -> bytes:
        data = self.read(f"blobs/{sha256}", max_bytes=MAX_BLOB_BYTES)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self.bad(f"blobs/{sha256} has another digest")
        return data

    def rows(self, name: str, kind: type[_Row]) -> Iterator[Any]:
        lines = self.read(name, max_bytes=MAX_TABLE_BYTES).splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                field = ".".join(map(str, first["loc"])) or "row"
                raise self.bad(f"{name} row {number}: {field}: {first['msg']}") from error

    def bad(self, what: str) -> DataError:
        return DataError(f"{self._path}: {what}; export it again")


def _import(archive: _Archive, folder: Path) -> Moved:
    raw = archive.read("manifest.json", max_bytes=1 << 20)
    try:
        manifest = _Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise archive.bad("manifest.json cannot be read") from error
    if (manifest.format, manifest.version) != (FORMAT, VERSION):
        raise archive.bad(f"format {manifest.format} {manifest.version} is not {FORMAT} {VERSION}")
    entries = [_checked(row, archive) for row in archive.rows("entries.jsonl", _EntryRow)]
    observations = list(archive.rows("observations.jsonl", _ObservationRow))
    if (len(entries), len(observations)) != (manifest.entries, manifest.observations):
        raise archive.bad("it holds other numbers of rows than its manifest says")
    texts = {sha for row in entries for sha in row.texts}
    images = {ref.sha256: ref for row in entries for ref in _images(row)}
    for sha256, ref in images.items():
        if image_ref(archive.blob(sha256)) != ref:
            raise archive.bad(f"image {sha256} is not what its row says")
    for sha256 in texts:
        archive.blob(sha256)
    with closing(Store(folder)) as store:
        for sha256, files, kind in [
            *((sha, store.texts, "text") for sha in sorted(texts)),
            *((sha, store.images, "image") for sha in sorted(images)),
        ]:
            data = archive.blob(sha256)
            draft = files.draft(data)
            with store.writing() as db:
                if files.place(draft, sha256):
                    own_blob(db, sha256, kind=kind, size=len(data), now=store.now())
        for row in entries:
            _write(store, row)
        for seen in observations:
            store.observe(Observation(**seen.model_dump()))
    blobs = len(texts) + len(images)
    return Moved(entries=len(entries), observations=len(observations), blobs=blobs)


def _checked(row: _EntryRow, archive: _Archive) -> _EntryRow:
    """A row that is what it says: its key, its value and what that cites."""
    where = f"entries.jsonl: {row.kind} {row.arguments[:80]!r}"
    try:
        operation = _operation(row)
        State(row.state)
        texts, images = _cited(row.kind, row.state, row.value)
        if row.state == State.ERROR:
            raw = json.loads(row.value)
            str(raw["message"]), str(raw["error_type"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise archive.bad(f"{where} cannot be read ({error})") from error
    if operation.key != row.key:
        raise archive.bad(f"{where} stands under a key that is not its own")
    if (texts, tuple(ref.sha256 for ref in images)) != (row.texts, row.images):
        raise archive.bad(f"{where} names other files than its value")
    return row


def _operation(row: _EntryRow) -> Operation:
    operation = Operation(kind=Kind(row.kind), arguments=row.arguments, version=row.version)
    if canonical_json(json.loads(row.arguments)) != row.arguments:
        raise ValueError("its arguments are not canonical JSON")
    return operation


def _images(row: _EntryRow) -> tuple[ImageRef, ...]:
    return _cited(row.kind, row.state, row.value)[1]


def _write(store: Store, row: _EntryRow) -> None:
    """Keep an entry with its own age, unless the store has one. None is from the future: it would
    never grow old."""
    operation, now = _operation(row), store.now()
    with store.writing() as db:
        if db.execute("SELECT 1 FROM entries WHERE key = ?", (row.key,)).fetchone():
            return
        look_up(db, operation)
        db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.key, row.kind, row.arguments, row.version, row.provider, row.state),
                *(row.value, row.upstream_calls, row.cost_usd, min(row.created_s, now), now),
            ),
        )
        pairs = [(row.key, sha256) for sha256 in (*row.texts, *row.images)]
        db.executemany("INSERT OR IGNORE INTO cites VALUES (?, ?)", pairs)
