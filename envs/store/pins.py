"""What must not be evicted: images that a live trajectory or an unconsumed group refers to.

A holder is "<session>:<ordinal>", or "<session>:heldout-<ordinal>". An ordinal's pins are released
when the ordinal has ended; a checkpoint issues its pending ordinals again, so it needs no pins of
its own. Pins of held-out tasks stay. All are rows of the index: they outlive the process that made
them, and the next session of a run drops the last one's.
"""

from collections.abc import Iterable, Sequence

from core.records import ImageRef
from envs.store.store import Store


def pin(store: Store, holder: str, refs: Iterable[ImageRef]) -> bool:
    """False when one of the images is no longer there: fetch it again, then pin again."""
    digests = [ref.sha256 for ref in refs]
    with store.writing() as db:
        rows = [(holder, sha256) for sha256 in digests]
        db.executemany("INSERT OR IGNORE INTO pins VALUES (?, ?)", rows)
        names = [(sha256,) for sha256 in digests]
        db.executemany("UPDATE blobs SET doomed = 0 WHERE sha256 = ?", names)
        return all(store.images.path(sha256).is_file() for sha256 in digests)


def release(store: Store, holders: Sequence[str]) -> None:
    with store.writing() as db:
        db.executemany("DELETE FROM pins WHERE holder = ?", [(holder,) for holder in holders])


def begin_session(store: Store, session: str) -> None:
    """`session` is "<run>/<launch>": pins of earlier launches of the run are dropped."""
    run = session.rsplit("/", 1)[0]
    with store.writing() as db:
        db.execute(
            "DELETE FROM pins WHERE substr(holder, 1, ?) = ? AND substr(holder, 1, ?) != ?",
            (len(run) + 1, f"{run}/", len(session) + 1, f"{session}:"),
        )
