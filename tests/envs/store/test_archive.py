"""A store travels whole, and no archive can do more than add what it honestly holds."""

import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataError
from envs.store.archive import export_store, import_store
from envs.store.store import Observation, Store
from envs.store.verify import stats, verify
from tests.builders import png_bytes
from tests.fakes.library import CountedProvider, open_library


async def full_store(folder: Path) -> Store:
    library = open_library(folder, mode="record")
    provider = CountedProvider(library.images)
    await library.search(provider).search("flag of Torvi", k=2)
    await library.search(provider).search("none", k=2)
    await library.image_search(provider).image_search("a", k=2)
    page = (await library.pages(provider).page("u")).value
    assert page is not None
    await library.summaries(provider).answer(page, query="q")
    library.close()
    store = Store(folder)
    store.observe(Observation(call_key="0" * 64, call="c", digest="1" * 64, failed=False))
    return store


async def test_an_imported_store_replays_what_the_exported_one_held(tmp_path: Path) -> None:
    exported = await full_store(tmp_path / "a")
    moved = export_store(exported, tmp_path / "a.tar")
    assert (moved.entries, moved.observations, moved.blobs) == (5, 1, 3)
    store = Store(tmp_path / "b")
    assert import_store(tmp_path / "a.tar", tmp_path / "b") == moved
    assert verify(store).problems == ()
    export_store(store, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    store.close()
    library = open_library(tmp_path / "b", mode="replay", on_miss="nearest")
    assert len((await library.search(None).search("Torvi", k=2)).value) == 2
    [first, _] = (await library.image_search(None).image_search("a", k=2)).value
    assert library.images.get(first.ref)


async def test_importing_twice_changes_nothing(tmp_path: Path) -> None:
    export_store(await full_store(tmp_path / "a"), tmp_path / "a.tar")
    store = Store(tmp_path / "b")
    for _ in range(2):
        import_store(tmp_path / "a.tar", tmp_path / "b")
    assert stats(store)["entries"]["search/found"]["count"] == 1
    assert store.rows("SELECT count(*) FROM lookups") == [(5,)]


Members = dict[str, bytes]


def rewrite(path: Path, change: Callable[[Members], None]) -> None:
    with tarfile.open(path) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def change_rows(change: Callable[[dict[str, Any]], None]) -> Callable[[Members], None]:
    def run(members: Members) -> None:
        rows = [json.loads(line) for line in members["entries.jsonl"].splitlines()]
        for row in rows:
            change(row)
        members["entries.jsonl"] = "\n".join(json.dumps(row) for row in rows).encode()

    return run


def first_blob(members: Members) -> str:
    return next(name for name in members if name.startswith("blobs/"))


def other_bytes(members: Members) -> None:
    members[first_blob(members)] = b"other bytes"


def no_blob(members: Members) -> None:
    del members[first_blob(members)]


def outside_name(row: dict[str, Any]) -> None:
    row["texts"] = ["../../../../tmp/evil" for _ in row["texts"]]


def outside_value(row: dict[str, Any]) -> None:
    if row["kind"] == "page":
        value = {"url": "u", "title": "t", "text": "../../evil"}
        row |= {"value": json.dumps(value), "texts": ["../../evil"]}


HOSTILE: list[tuple[Callable[[Members], None], str]] = [
    (other_bytes, "another digest"),
    (no_blob, "is missing"),
    (lambda members: members.pop("manifest.json"), r"manifest\.json is missing"),
    (lambda members: members.update({"manifest.json": b"{}"}), "cannot be read"),
    (lambda members: members.update({"entries.jsonl": b"\x80\x04pickle"}), "row 1"),
    (lambda members: members.update({"entries.jsonl": b""}), "other numbers"),
    (change_rows(outside_name), "other files"),
    (change_rows(outside_value), "is missing"),
    (change_rows(lambda row: row.update(key="0" * 64)), "not its own"),
    (change_rows(lambda row: row.update(version="x")), "not its own"),
    (change_rows(lambda row: row.update(value='{"hits":[{"url":1}]}')), "cannot be read"),
    (change_rows(lambda row: row.update(value="[]")), "cannot be read"),
    (change_rows(lambda row: row.update(extra=1)), "extra"),
    (change_rows(lambda row: row.update(cost_usd="much")), "cost_usd"),
    (change_rows(lambda row: row.update(cost_usd=float("nan"))), "cost_usd"),
    (change_rows(lambda row: row.update(upstream_calls=10**30)), "upstream_calls"),
    (change_rows(lambda row: row.update(value="[" * 200_000)), "cannot be read"),
]


@pytest.mark.parametrize(("change", "said"), HOSTILE)
async def test_a_changed_archive_is_refused_whole(
    tmp_path: Path, change: Callable[[Members], None], said: str
) -> None:
    exported = await full_store(tmp_path / "a")
    export_store(exported, tmp_path / "a.tar")
    exported.close()
    rewrite(tmp_path / "a.tar", change)
    store = Store(tmp_path / "b")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=said):
        import_store(tmp_path / "a.tar", tmp_path / "b")
    assert store.rows("SELECT count(*) FROM entries") == [(0,)]
    assert sorted(tmp_path.rglob("*")) == before, "no file was written"


async def test_an_answer_from_the_future_is_as_old_as_its_import(tmp_path: Path) -> None:
    export_store(await full_store(tmp_path / "a"), tmp_path / "a.tar")
    rewrite(tmp_path / "a.tar", change_rows(lambda row: row.update(created_s=1e18)))
    before_s = time.time()
    import_store(tmp_path / "a.tar", tmp_path / "b")
    ages = Store(tmp_path / "b").rows("SELECT created_s FROM entries")
    assert all(before_s <= created_s <= time.time() for (created_s,) in ages)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil-gs", "blobs/../../evil"])
async def test_members_with_paths_are_ignored(tmp_path: Path, name: str) -> None:
    export_store(await full_store(tmp_path / "a"), tmp_path / "a.tar")
    rewrite(tmp_path / "a.tar", lambda members: members.update({name: b"evil"}))
    import_store(tmp_path / "a.tar", tmp_path / "b")
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/evil-gs").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(png_bytes())
    with pytest.raises(DataError, match="no archive of a store"):
        import_store(tmp_path / "x.tar", tmp_path / "b")


async def test_verify_names_every_damage(tmp_path: Path) -> None:
    store = await full_store(tmp_path)
    assert verify(store).problems == ()
    for path in [*tmp_path.glob("texts/??/*"), *tmp_path.glob("images/??/*")]:
        path.write_bytes(b"rot")
    with store.writing() as db:
        db.execute("UPDATE entries SET version = 'x' WHERE kind = 'summary'")
    problems = "\n".join(verify(store).problems)
    assert "page 'u': its text" in problems
    assert "image_search 'a': its image" in problems
    assert "summary 'q' stands under the wrong key" in problems
    assert problems.count("is missing or has changed on disk") == 5, "two entries, three files"
