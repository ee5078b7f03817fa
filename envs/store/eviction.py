"""Keeping a store under its cap: the least recently used entries go, pinned images stay.

Entries are dropped and their files marked as doomed in one transaction, the files removed and
unlisted in the next. A kill in between leaves doomed files, which the next round removes; whoever
pins or fetches one again before that saves it.
"""

import sqlite3
from dataclasses import dataclass

from envs.store.store import Store

LOW_WATER = 0.9
"""Share of the cap that is left after a round, so that not every write begins one."""
ORPHAN_AGE_S = 600.0
"""A file that no entry cites is kept that long: its entry may be about to be written."""

_UNCITED = """
NOT EXISTS (SELECT 1 FROM cites WHERE cites.sha256 = blobs.sha256)
AND NOT EXISTS (SELECT 1 FROM pins WHERE pins.sha256 = blobs.sha256)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    entries: int
    bytes: int


def store_bytes(store: Store) -> int:
    """What counts for the cap: files of its own, and values."""
    (row,) = store.rows(
        "SELECT (SELECT coalesce(sum(bytes), 0) FROM blobs WHERE doomed = 0) + "
        "(SELECT coalesce(sum(length(value)), 0) FROM entries)"
    )
    return int(row[0])


def evict(store: Store, *, max_bytes: int) -> Evicted:
    """Bring the store under `max_bytes`, if it is over it."""
    before = store_bytes(store)
    if before <= max_bytes:
        return Evicted(entries=0, bytes=0)
    target = int(LOW_WATER * max_bytes)
    oldest = "SELECT key FROM entries ORDER BY used_s, key"
    return _drop(store, oldest, excess=before - target)


def prune(store: Store, *, unused_s: float) -> Evicted:
    """Drop entries that were not used for so long, and files that nothing cites."""
    old = "SELECT key FROM entries WHERE used_s < ? ORDER BY used_s, key"
    return _drop(store, old, (store.now() - unused_s,))


def _drop(
    store: Store, candidates: str, values: tuple[float, ...] = (), *, excess: int | None = None
) -> Evicted:
    """Entries in the order given, until `excess` bytes are gone; None: all of them."""
    entries = 0
    with store.writing() as db:
        freed = _doom_uncited(db, before_s=store.now() - ORPHAN_AGE_S)
        for (key,) in db.execute(candidates, values).fetchall():
            if excess is not None and freed >= excess:
                break
            if _is_pinned(db, key):
                continue
            freed += _drop_entry(db, key)
            entries += 1
        db.execute("DELETE FROM lookups WHERE key NOT IN (SELECT key FROM entries)")
    remove_doomed(store)
    return Evicted(entries=entries, bytes=freed)


def remove_doomed(store: Store) -> None:
    with store.writing() as db:
        doomed = db.execute(f"SELECT sha256, kind FROM blobs WHERE doomed = 1 AND {_UNCITED}")
        for sha256, kind in doomed.fetchall():
            (store.images if kind == "image" else store.texts).remove(sha256)
            db.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))


def _is_pinned(db: sqlite3.Connection, key: str) -> bool:
    statement = "SELECT 1 FROM cites JOIN pins USING (sha256) WHERE key = ? LIMIT 1"
    return db.execute(statement, (key,)).fetchone() is not None


def _drop_entry(db: sqlite3.Connection, key: str) -> int:
    cited = db.execute("SELECT sha256 FROM cites WHERE key = ?", (key,)).fetchall()
    (size,) = db.execute("SELECT length(value) FROM entries WHERE key = ?", (key,)).fetchone()
    db.execute("DELETE FROM entries WHERE key = ?", (key,))
    db.execute("DELETE FROM cites WHERE key = ?", (key,))
    for (sha256,) in cited:
        size += _doom(db, f"sha256 = ? AND {_UNCITED}", (sha256,))
    return int(size)


def _doom_uncited(db: sqlite3.Connection, *, before_s: float) -> int:
    return _doom(db, f"added_s < ? AND {_UNCITED}", (before_s,))


def _doom(db: sqlite3.Connection, which: str, values: tuple[object, ...]) -> int:
    found = db.execute(
        f"UPDATE blobs SET doomed = 1 WHERE doomed = 0 AND {which} RETURNING bytes", values
    )
    return sum(size for (size,) in found.fetchall())
