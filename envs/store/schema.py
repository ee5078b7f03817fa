"""The index of a store: one SQLite file in WAL mode, with a schema version and its migrations.

`open_index` makes the file when it is missing and takes an older one to the present schema, one
step at a time, each whole or not at all. Fails with ConfigError when the file is no index, or is
one of a later version of this program.

synchronous is NORMAL: a killed process loses nothing, a lost machine the last commits, and each
of those is only fetched again.
"""

import sqlite3
from pathlib import Path

from core.errors import ConfigError
from envs.words import plain_form

BUSY_TIMEOUT_MS = 30_000

_ENTRIES = """
CREATE TABLE entries (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    arguments TEXT NOT NULL,
    version TEXT NOT NULL,
    provider TEXT NOT NULL,
    state TEXT NOT NULL,
    value TEXT NOT NULL,
    upstream_calls INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    created_s REAL NOT NULL,
    used_s REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX entries_by_arguments ON entries (kind, arguments, created_s);
CREATE INDEX entries_by_use ON entries (used_s);
CREATE TABLE cites (key TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (key, sha256))
    WITHOUT ROWID;
CREATE INDEX cites_by_blob ON cites (sha256);
CREATE TABLE blobs (
    sha256 TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    added_s REAL NOT NULL,
    doomed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE pins (holder TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (holder, sha256))
    WITHOUT ROWID;
CREATE INDEX pins_by_blob ON pins (sha256);
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_OBSERVATIONS = """
CREATE TABLE observations (
    call_key TEXT PRIMARY KEY,
    call TEXT NOT NULL,
    digest TEXT NOT NULL,
    failed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE tallies (
    session TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (session, name)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE lookups USING fts5(
    words, kind UNINDEXED, scope UNINDEXED, key UNINDEXED, tokenize='unicode61'
);
INSERT INTO lookups (words, kind, scope, key)
    SELECT coalesce(json_extract(arguments, '$.query'), json_extract(arguments, '$.url')),
           kind, coalesce(json_extract(arguments, '$.page'), ''), key
    FROM entries ORDER BY key;
"""

_PLAIN_WORDS = "UPDATE lookups SET words = plain_form(words);"

MIGRATIONS = (_ENTRIES, _OBSERVATIONS, _PLAIN_WORDS)
"""MIGRATIONS[n] takes an index from version n to n + 1."""
SCHEMA_VERSION = len(MIGRATIONS)


def open_index(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions, for use from several threads, one at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mend = "delete the folder, or name another in tools.store"
    try:
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        db.create_function("plain_form", 1, plain_form, deterministic=True)
        version = schema_version(db)
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{path} has schema {version}, and this program knows {SCHEMA_VERSION}; "
                "use the version of the program that wrote it"
            )
        if version < SCHEMA_VERSION:
            _migrate(db)
        db.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error as error:
        raise ConfigError(f"{path} is not the index of a store ({error}); {mend}") from error
    return db


def schema_version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    while True:
        db.execute("BEGIN IMMEDIATE")
        try:
            version = schema_version(db)  # another process may have been faster
            if version >= SCHEMA_VERSION:
                db.execute("COMMIT")
                return
            for statement in _statements(MIGRATIONS[version]):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    """One by one: `executescript` would end the transaction."""
    return [statement for part in script.split(";") if (statement := part.strip())]
