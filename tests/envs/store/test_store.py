"""The store migrates, evicts what it may, and cleans up after those who were killed."""

import json
import sqlite3
from pathlib import Path

import pytest

from core.errors import ConfigError
from envs.images import FileImageStore
from envs.provider import SearchHit
from envs.store.eviction import evict, prune, remove_doomed, store_bytes
from envs.store.pins import begin_session, pin, release
from envs.store.schema import MIGRATIONS, SCHEMA_VERSION
from envs.store.store import Observation, Store
from envs.store.values import Kind, Operation, canonical_json, encode
from tests.builders import png_bytes
from tests.fakes.library import Clock, CountedProvider, open_library


def operation(query: str, *, kind: Kind = Kind.SEARCH) -> Operation:
    return Operation(kind=kind, arguments=canonical_json({"query": query, "k": 1}), version="v")


def write_hit(store: Store, query: str, *, size: int = 10) -> None:
    hit = SearchHit(url="u", title=query, snippet="x" * size)
    store.write(operation(query), encode(Kind.SEARCH, (hit,)), provider="p")


def titles(store: Store) -> list[str]:
    return sorted(
        str(query)
        for (query,) in store.rows("SELECT json_extract(arguments, '$.query') FROM entries")
    )


def test_a_full_disk_is_named_and_the_store_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(sqlite3.OperationalError, match="disk is full"):
        write_hit(store, "a", size=100_000)
    store._writer.execute(f"PRAGMA max_page_count = {pages + 100}")
    write_hit(store, "b")
    assert titles(store) == ["b"]


def test_a_version_1_file_is_migrated_and_searchable(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "index.sqlite")
    db.executescript(MIGRATIONS[0])
    asked = operation("flag of \uff34\uff4f\uff52\uff56\uff49")
    value = json.dumps({"hits": [{"url": "u", "title": "Torvi", "snippet": "s"}]})
    row = (asked.key, "search", asked.arguments, "v", "p", "found", value, 1, 0.0, 5.0, 5.0)
    db.execute(f"INSERT INTO entries VALUES ({','.join('?' * len(row))})", row)
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()

    store = Store(tmp_path)
    entry = store.read(asked)
    assert entry is not None
    assert entry.value == (SearchHit(url="u", title="Torvi", snippet="s"),)
    assert store.read_nearest(operation("Torvi")) == entry
    store.observe(Observation(call_key="k", call="c", digest="d", failed=False))
    assert store.rows("PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_the_nearest_query_is_compared_in_its_plain_form(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_hit(store, "\uff3a\uff4f\uff52\uff56\uff49\uff41 flag")
    near = store.read_nearest(operation("Zorvia"))
    assert near is not None
    assert near.words == "\uff3a\uff4f\uff52\uff56\uff49\uff41 flag", "as it was asked"


def test_a_file_of_a_later_program_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="schema 99"):
        Store(tmp_path)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no store"):
        Store.existing(tmp_path / "none")
    (tmp_path / "index.sqlite").write_text("not a database" * 100)
    with pytest.raises(ConfigError, match=r"not the index.*tools\.store"):
        Store(tmp_path)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, now=clock)
    for query in "abcd":
        write_hit(store, query, size=1000)
        clock.now_s += 1
    store.touch({operation("a").key: clock.now_s})
    assert evict(store, max_bytes=10_000).entries == 0
    evict(store, max_bytes=store_bytes(store) - 1000)
    assert titles(store) == ["a", "d"]
    assert store.read_nearest(operation("b")) is None, "its words are gone too"


async def test_a_pinned_image_is_never_taken(tmp_path: Path) -> None:
    library = open_library(tmp_path)
    provider = CountedProvider(library.images)
    refs = {}
    for query in ("kept", "gone"):
        found = await library.image_search(provider).image_search(query, k=1)
        refs[query] = found.value[0].ref
    store = Store(tmp_path)
    assert pin(store, "run/1:7", [refs["kept"]])
    evict(store, max_bytes=0)
    assert (library.images.has(refs["kept"]), library.images.has(refs["gone"])) == (True, False)
    assert titles(store) == ["kept"]
    release(store, ["run/1:7"])
    evict(store, max_bytes=0)
    assert not library.images.has(refs["kept"])
    assert store_bytes(store) == 0


async def test_a_pin_saves_an_image_that_is_being_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    library = open_library(tmp_path)
    found = await library.image_search(CountedProvider(library.images)).image_search("a", k=1)
    with store.writing() as db:
        db.execute("UPDATE blobs SET doomed = 1")
    assert pin(store, "run/1:7", [found.value[0].ref])
    remove_doomed(store)
    assert library.images.has(found.value[0].ref)


async def test_a_pin_of_an_image_that_is_gone_says_so_and_it_is_fetched_again(
    tmp_path: Path,
) -> None:
    library = open_library(tmp_path)
    provider = CountedProvider(library.images)
    source = library.image_search(provider)
    ref = (await source.image_search("a", k=1)).value[0].ref
    evict(Store(tmp_path), max_bytes=0)  # another process, while the answer is in our memory
    assert not await library.pin(7, [ref])
    assert (await source.image_search("a", k=1)).value[0].ref == ref
    assert await library.pin(7, [ref])
    assert len(provider.calls) == 2


def test_images_that_others_put_into_a_shared_folder_are_left_alone(tmp_path: Path) -> None:
    rendered = FileImageStore(tmp_path / "images").put(png_bytes())
    store = Store(tmp_path / "store", images=tmp_path / "images")
    evict(store, max_bytes=0)
    prune(store, unused_s=0)
    assert FileImageStore(tmp_path / "images").get(rendered) == png_bytes()


def test_a_new_launch_drops_the_pins_of_the_last_one_and_no_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for holder in ("a/1:0", "a/2:0", "ab/1:0"):
        pin(store, holder, [FileImageStore(store.images.folder).put(png_bytes())])
    begin_session(store, "a/2")
    assert store.rows("SELECT holder FROM pins ORDER BY holder") == [("a/2:0",), ("ab/1:0",)]


def test_prune_drops_what_was_not_used_for_long(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, now=clock)
    write_hit(store, "old")
    clock.now_s += 100
    write_hit(store, "new")
    assert prune(store, unused_s=50).entries == 1
    assert titles(store) == ["new"]


def test_drafts_of_the_dead_are_removed_by_whoever_is_alone(tmp_path: Path) -> None:
    first = Store(tmp_path)
    draft = first.texts.draft(b"half")
    second = Store(tmp_path)
    assert draft.exists(), "the first one may still be writing it"
    for store in (first, second):
        store.close()
    Store(tmp_path)
    assert not draft.exists()


def test_a_success_replaces_a_failed_observation_and_nothing_replaces_a_success(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    for digest, failed in (("1", True), ("2", False), ("3", False), ("4", True)):
        store.observe(Observation(call_key="k", call="c", digest=digest, failed=failed))
    assert store.observations()["k"].digest == "2"


def test_a_store_that_moved_with_its_run_still_finds_its_images(tmp_path: Path) -> None:
    Store(tmp_path / "run" / "store", images=tmp_path / "run" / "images").close()
    (tmp_path / "run").rename(tmp_path / "moved")
    assert Store(tmp_path / "moved" / "store").images.folder == tmp_path / "moved" / "images"
