"""The store itself: entries and their files, safe to be killed at any moment.

In: operations and encoded values. Out: entries whose every file was checked against its digest.
Opened by any number of processes of one node at once; safe from several threads. Reads never wait
for writers. Fails with ConfigError when the folder is no store, with ToolError when the disk does.

A file is in place before the row that names it, and a row is gone before its file is; so a kill
leaves at worst a file that no row names, never a row without its file.
"""

import json
import os.path
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ConfigError, ToolError
from core.records import ImageRef
from envs.fts import match_any_word
from envs.store.files import BlobFolder, empty_drafts
from envs.store.locks import StoreLocks
from envs.store.schema import open_index
from envs.store.values import Encoded, Kind, Operation, State, decode, text_bytes
from envs.words import plain_form

INDEX = "index.sqlite"
LOCKS = "locks"
IMAGES = "images"


class DamagedError(ToolError):
    """A file that an entry names is missing or has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One answered operation."""

    key: str
    kind: Kind
    words: str
    version: str
    provider: str
    state: State
    value: Any
    """What the provider gave; (message, error type) when `state` is ERROR."""
    images: tuple[ImageRef, ...]
    size: int
    created_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the policy read after a call."""

    call_key: str
    call: str
    """Canonical JSON: [name of the tool, its arguments with their defaults]."""
    digest: str
    """envs.observations.observation_digest: over the text and the images in order."""
    failed: bool


class Store:
    def __init__(
        self,
        folder: Path,
        *,
        images: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the store in `folder`, or make it there.

        `images`: the image folder of a new store, e.g. that of the run; None: one of its own. A
        store that exists knows where its images are.
        """
        self.folder = Path(folder)
        self.now = now
        self._writing = threading.RLock()
        self.drafts = self.folder / "drafts"
        self.locks = StoreLocks(self.folder / LOCKS)
        try:
            with self.locks.opening() as alone:
                self._writer = open_index(self.folder / INDEX)
                self._reader = open_index(self.folder / INDEX)
                if alone:
                    empty_drafts(self.drafts)
                self.drafts.mkdir(exist_ok=True)
                own = self.folder.resolve()
                where = _relative(images or own / IMAGES, own)
                self._writer.execute("INSERT OR IGNORE INTO about VALUES ('images', ?)", (where,))
                where = self.about("images")
        except BaseException:
            self.locks.close()
            raise
        self.texts = BlobFolder(self.folder / "texts", drafts=self.drafts)
        self.images = BlobFolder((own / where).resolve(), drafts=self.drafts)

    @staticmethod
    def existing(folder: Path) -> "Store":
        """Raises ConfigError when there is none."""
        if not (folder / INDEX).is_file():
            raise ConfigError(f"there is no store at {folder}; name a folder with {INDEX} in it")
        return Store(folder)

    def close(self) -> None:
        for db in (self._writer, self._reader):
            db.close()
        self.locks.close()

    # -- entries --------------------------------------------------------------------------------

    def read(self, operation: Operation) -> Entry | None:
        """The entry of exactly this operation. Raises DamagedError."""
        return self._entry("SELECT * FROM entries WHERE key = ?", (operation.key,))

    def read_recorded(self, operation: Operation) -> Entry | None:
        """The newest entry with these arguments, of any provider; a failure only if all of them
        are. Raises DamagedError."""
        statement = (
            "SELECT * FROM entries WHERE kind = ? AND arguments = ? "
            "ORDER BY state = 'error', created_s DESC, key LIMIT 1"
        )
        return self._entry(statement, (operation.kind, operation.arguments))

    def read_nearest(self, operation: Operation) -> Entry | None:
        """The entry of the kind whose words fit best (BM25); None when no word is shared."""
        words = match_any_word(operation.words)
        statement = (
            "SELECT entries.* FROM lookups JOIN entries USING (key) "
            "WHERE lookups MATCH ? AND lookups.kind = ? AND scope = ? AND state = 'found' "
            "ORDER BY bm25(lookups), created_s DESC, key LIMIT 1"
        )
        if words is None:
            return None
        return self._entry(statement, (words, operation.kind, operation.scope))

    def write(
        self,
        operation: Operation,
        encoded: Encoded,
        *,
        provider: str,
        upstream_calls: int = 0,
        cost_usd: float = 0.0,
    ) -> None:
        """Keep a value; an older one of the same operation is replaced."""
        drafts = {sha: self.texts.draft(text_bytes(text)) for sha, text in encoded.texts.items()}
        cited = [*encoded.texts, *(ref.sha256 for ref in encoded.images)]
        now = self.now()
        row = (
            *(operation.key, operation.kind, operation.arguments, operation.version, provider),
            *(encoded.state, encoded.value, upstream_calls, cost_usd, now, now),
        )
        with self.writing() as db:
            for sha, draft in drafts.items():
                size = draft.stat().st_size
                self.texts.place(draft, sha)
                own_blob(db, sha, kind="text", size=size, now=now)
            for ref in encoded.images:
                db.execute("UPDATE blobs SET doomed = 0 WHERE sha256 = ?", (ref.sha256,))
            known = db.execute("SELECT 1 FROM entries WHERE key = ?", (operation.key,)).fetchone()
            if not known:
                look_up(db, operation)
            db.execute(f"INSERT OR REPLACE INTO entries VALUES ({','.join('?' * len(row))})", row)
            db.execute("DELETE FROM cites WHERE key = ?", (operation.key,))
            pairs = [(operation.key, sha) for sha in cited]
            db.executemany("INSERT OR IGNORE INTO cites VALUES (?, ?)", pairs)

    def write_error(self, operation: Operation, error: ToolError, *, provider: str) -> None:
        """Keep a failure, unless the operation has a value."""
        value = json.dumps({"message": str(error), "error_type": error.error_type})
        with self.writing():
            found = self.rows(
                "SELECT 1 FROM entries WHERE key = ? AND state != 'error'", (operation.key,)
            )
            if not found:
                encoded = Encoded(state=State.ERROR, value=value, texts={})
                self.write(operation, encoded, provider=provider)

    def touch(self, used: Mapping[str, float]) -> None:
        """When entries were last used."""
        pairs = [(used_s, key) for key, used_s in used.items()]
        with self.writing() as db:
            db.executemany("UPDATE entries SET used_s = max(used_s, ?) WHERE key = ?", pairs)

    def entries(self) -> Iterator[Entry | DamagedError]:
        """All of them, in the order of their keys; a damaged one as the error that says so."""
        for key, *_ in self.rows("SELECT key FROM entries ORDER BY key"):
            try:
                entry = self._entry("SELECT * FROM entries WHERE key = ?", (key,))
            except DamagedError as error:
                yield error
            else:
                if entry is not None:
                    yield entry

    # -- what a recording saw -------------------------------------------------------------------

    def observe(self, seen: Observation) -> None:
        """Keep it; a first success replaces a failure, and nothing replaces a success."""
        row = (seen.call_key, seen.call, seen.digest, int(seen.failed))
        with self.writing() as db:
            db.execute(
                "INSERT INTO observations VALUES (?, ?, ?, ?) ON CONFLICT (call_key) DO UPDATE "
                "SET digest = excluded.digest, failed = excluded.failed "
                "WHERE observations.failed = 1 AND excluded.failed = 0",
                row,
            )

    def observations(self) -> dict[str, Observation]:
        """By the key of the call, which stands in `ToolResult.call_key`."""
        rows = self.rows("SELECT call_key, call, digest, failed FROM observations")
        return {
            row[0]: Observation(call_key=row[0], call=row[1], digest=row[2], failed=bool(row[3]))
            for row in rows
        }

    # -- counts of a session --------------------------------------------------------------------

    def add_tallies(self, session: str, values: Mapping[str, float]) -> None:
        rows = [(session, name, value) for name, value in values.items()]
        with self.writing() as db:
            db.executemany(
                "INSERT INTO tallies VALUES (?, ?, ?) ON CONFLICT (session, name) "
                "DO UPDATE SET value = value + excluded.value",
                rows,
            )

    def tallies(self, session: str) -> dict[str, float]:
        rows = self.rows("SELECT name, value FROM tallies WHERE session = ?", (session,))
        return dict(rows)

    # -- for the modules beside this one --------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that excludes every other writer; whole or not at all."""
        with self._writing:
            if self._writer.in_transaction:
                yield self._writer
                return
            with _disk("writing"):
                self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                with _disk("writing"):
                    self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # SQLite itself ends that of a full disk
                    self._writer.execute("ROLLBACK")
                raise

    def about(self, name: str) -> str:
        return str(self.rows("SELECT value FROM about WHERE name = ?", (name,))[0][0])

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """What is committed; never waits for a writer."""
        with _disk("reading"), closing(self._reader.execute(statement, values)) as found:
            return found.fetchall()

    def _entry(self, statement: str, values: tuple[Any, ...]) -> Entry | None:
        rows = self.rows(statement, values)
        if not rows:
            return None
        key, kind, arguments, version, provider, state, value, _, _, created_s, _ = rows[0]
        operation = Operation(kind=Kind(kind), arguments=arguments, version=version)
        texts: dict[str, str] = {}

        def read_text(sha256: str) -> str:
            data = self.texts.read(sha256)
            if data is None:
                raise self._damaged(operation, f"its text {sha256}")
            texts[sha256] = data.decode("utf-8", errors="surrogatepass")
            return texts[sha256]

        images: tuple[ImageRef, ...] = ()
        if state == State.ERROR:
            raw = json.loads(value)
            decoded: Any = (raw["message"], raw["error_type"])
        else:
            decoded = decode(operation.kind, value, read_text=read_text)
            if operation.kind is Kind.IMAGE_SEARCH:
                images = tuple(image.ref for image in decoded)
        for ref in images:
            if self.images.read(ref.sha256) is None:
                raise self._damaged(operation, f"its image {ref.sha256}")
        return Entry(
            key=key,
            kind=operation.kind,
            words=operation.words,
            version=version,
            provider=provider,
            state=State(state),
            value=decoded,
            images=images,
            size=len(value) + sum(len(text) for text in texts.values()),
            created_s=created_s,
        )

    def _damaged(self, operation: Operation, what: str) -> DamagedError:
        message = f"{operation.kind} {operation.words!r}: {what} is missing or has changed on disk"
        return DamagedError(f"{message}; record it again", retryable=False)


def look_up(db: sqlite3.Connection, operation: Operation) -> None:
    """List the words of an operation, for `read_nearest`."""
    row = (plain_form(operation.words), operation.kind, operation.scope, operation.key)
    db.execute("INSERT INTO lookups (words, kind, scope, key) VALUES (?, ?, ?, ?)", row)


def own_blob(db: sqlite3.Connection, sha256: str, *, kind: str, size: int, now: float) -> None:
    """List a file as the store's: it counts for the cap and may be evicted."""
    db.execute(
        "INSERT INTO blobs VALUES (?, ?, ?, ?, 0) ON CONFLICT (sha256) "
        "DO UPDATE SET doomed = 0, added_s = excluded.added_s",
        (sha256, kind, size, now),
    )


@contextmanager
def _disk(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ToolError(f"{what} the store: {error}", error_type="StoreError") from error


def _relative(path: Path, folder: Path) -> str:
    """`path` seen from `folder`, so that a run's folder can be moved as a whole."""
    return Path(os.path.relpath(path.resolve(), folder)).as_posix()
