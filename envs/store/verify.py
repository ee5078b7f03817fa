"""What is in a store, and whether it is whole: every row, and every file that a row names.

In: a store. Out: what is wrong, one sentence each; nothing is mended. Looks at everything, so it
takes as long as reading the whole store.
"""

from dataclasses import dataclass
from typing import Any

from envs.store.eviction import store_bytes
from envs.store.schema import SCHEMA_VERSION
from envs.store.store import DamagedError, Store
from envs.store.values import Kind, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    entries: int
    blobs: int
    observations: int
    unlisted_files: int
    """Texts that no row names: whole, harmless, removed by `prune`."""
    problems: tuple[str, ...]


def verify(store: Store) -> Verdict:
    checked = store.rows("PRAGMA integrity_check")
    problems = [f"index: {line}" for (line,) in checked if line != "ok"]
    problems += _wrong_keys(store)
    entries = 0
    for entry in store.entries():
        entries += 1
        if isinstance(entry, DamagedError):
            problems.append(str(entry))
    blobs = store.rows("SELECT sha256, kind, bytes FROM blobs WHERE doomed = 0")
    for sha256, kind, size in blobs:
        data = (store.images if kind == "image" else store.texts).read(sha256)
        if data is None:
            problems.append(f"{kind} {sha256} is missing or has changed on disk")
        elif len(data) != size:
            problems.append(f"{kind} {sha256} is listed with {size} bytes and has {len(data)}")
    uncited = store.rows(
        "SELECT count(*) FROM cites WHERE NOT EXISTS "
        "(SELECT 1 FROM entries WHERE entries.key = cites.key)"
    )[0][0]
    if uncited:
        problems.append(f"index: {uncited} citations of entries that are not there")
    listed = {sha256 for sha256, *_ in store.rows("SELECT sha256 FROM blobs")}
    return Verdict(
        entries=entries,
        blobs=len(blobs),
        observations=store.rows("SELECT count(*) FROM observations")[0][0],
        unlisted_files=len(set(store.texts.digests()) - listed),
        problems=tuple(problems),
    )


def _wrong_keys(store: Store) -> list[str]:
    problems = []
    for key, kind, arguments, version in store.rows(
        "SELECT key, kind, arguments, version FROM entries ORDER BY key"
    ):
        operation = Operation(kind=Kind(kind), arguments=arguments, version=version)
        if operation.key != key:
            problems.append(f"{kind} {operation.words!r} stands under the wrong key {key}")
    return problems


def stats(store: Store) -> dict[str, Any]:
    """Numbers for people and machines."""
    kinds = store.rows(
        "SELECT kind, state, count(*), sum(upstream_calls), sum(cost_usd) FROM entries "
        "GROUP BY kind, state ORDER BY kind, state"
    )
    blobs = store.rows(
        "SELECT kind, count(*), sum(bytes) FROM blobs WHERE doomed = 0 GROUP BY kind ORDER BY kind"
    )
    (about,) = store.rows(
        "SELECT min(created_s), max(created_s), "
        "(SELECT count(*) FROM observations), (SELECT count(DISTINCT sha256) FROM pins) "
        "FROM entries"
    )
    return {
        "folder": str(store.folder),
        "images_folder": str(store.images.folder),
        "schema": SCHEMA_VERSION,
        "bytes": store_bytes(store),
        "entries": {
            f"{kind}/{state}": {"count": count, "upstream_calls": calls, "cost_usd": round(usd, 6)}
            for kind, state, count, calls, usd in kinds
        },
        "files": {kind: {"count": count, "bytes": size} for kind, count, size in blobs},
        "observations": about[2],
        "pinned_images": about[3],
        "oldest_s": about[0],
        "newest_s": about[1],
    }
