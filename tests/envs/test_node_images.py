"""envs/node_images.py: copies that are checked, made again, shared by processes, and capped."""

import multiprocessing
import os
from pathlib import Path

import pytest

from core.config import build_config
from core.errors import ConfigError, InfraError
from core.records import Failure, ImageRef
from envs.images import FileImageStore, image_path
from envs.node_images import NodeImages, open_images
from tests.builders import make_image_ref, png_bytes
from tests.fakes.images import MemoryImageStore

CAP = 1 << 20


def colours(number: int) -> list[bytes]:
    return [png_bytes((level, 0, 0)) for level in range(number)]


def gets(shared: MemoryImageStore) -> int:
    return sum(event[0] == "get" for event in shared.events)


def test_the_shared_store_is_read_once_by_all_processes_of_a_node(tmp_path: Path) -> None:
    shared = MemoryImageStore()
    one, other = (NodeImages(shared, tmp_path, max_bytes=CAP) for _ in range(2))
    ref = one.put(png_bytes())

    assert [store.get(ref) for store in (one, other, one)] == [png_bytes()] * 3
    assert gets(shared) == 1


@pytest.mark.parametrize("damage", [b"", png_bytes()[:40], png_bytes((9, 9, 9))])
def test_a_damaged_copy_is_noticed_and_made_again(tmp_path: Path, damage: bytes) -> None:
    shared = MemoryImageStore()
    store = NodeImages(shared, tmp_path, max_bytes=CAP)
    ref = store.put(png_bytes())
    store.get(ref)
    image_path(tmp_path, ref.sha256).write_bytes(damage)

    assert store.get(ref) == png_bytes()
    assert image_path(tmp_path, ref.sha256).read_bytes() == png_bytes()
    assert gets(shared) == 2


def test_what_is_in_neither_place_is_a_failure_and_never_a_picture(tmp_path: Path) -> None:
    store = NodeImages(FileImageStore(tmp_path / "shared"), tmp_path / "node", max_bytes=CAP)
    with pytest.raises(InfraError, match="cannot be read") as missing:
        store.get(make_image_ref())
    assert isinstance(missing.value.as_failure(), Failure)

    ref = store.put(png_bytes())
    for folder in (tmp_path / "shared", tmp_path / "node"):
        path = image_path(folder, ref.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"rotten")
    with pytest.raises(InfraError, match="has changed on disk"):
        store.get(ref)


def test_the_copies_that_were_not_read_for_longest_go(tmp_path: Path) -> None:
    shared = MemoryImageStore()
    images = colours(12)
    refs = [shared.put(data) for data in images]
    size = max(map(len, images))
    store = NodeImages(shared, tmp_path, max_bytes=6 * size)
    draft = tmp_path / "ab" / ".killed"
    draft.parent.mkdir()
    draft.write_bytes(b"half")
    os.utime(draft, (0, 0))
    for second, ref in enumerate(refs, start=1):
        store.get(ref)
        os.utime(image_path(tmp_path, ref.sha256), (second, second))
        store.get(refs[0])  # the newest again

    there = [image_path(tmp_path, ref.sha256).exists() for ref in refs]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not draft.exists()
    assert there[0]
    assert there[1:] == sorted(there[1:])
    assert 4 * size < sum(path.stat().st_size for path in files) <= 7 * size
    assert store.get(refs[1]) == images[1], "what went is fetched again"


def test_a_disk_that_takes_nothing_costs_no_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    shared = MemoryImageStore()
    store = NodeImages(shared, tmp_path / "file", max_bytes=CAP)
    ref = store.put(png_bytes())

    assert [store.get(ref), store.get(ref)] == [png_bytes()] * 2
    assert gets(shared) == 2
    assert "no copies of images in" in caplog.text


def read_over_and_over(shared: Path, node: Path, refs: list[ImageRef]) -> None:
    """In a process of its own, with a cap that keeps it sweeping."""
    store = NodeImages(FileImageStore(shared), node, max_bytes=2000)
    for turn in range(40):
        for number, ref in enumerate(refs):
            assert store.get(ref) == png_bytes((number, 0, 0))
            if (turn + number) % 7 == 0:
                image_path(node, ref.sha256).write_bytes(b"damage")


def test_processes_that_read_damage_and_sweep_side_by_side_all_see_whole_images(
    tmp_path: Path,
) -> None:
    shared = FileImageStore(tmp_path / "shared")
    refs = [shared.put(data) for data in colours(20)]
    spawn = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "shared", tmp_path / "node", refs)
    readers = [spawn.Process(target=read_over_and_over, args=arguments) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0, 0]


def test_a_recipe_says_where_a_node_keeps_its_copies(tmp_path: Path) -> None:
    shared, node = tmp_path / "shared", tmp_path / "node"
    plain = build_config({}).cluster
    cached = build_config({"cluster": {"image_cache": str(node)}}).cluster

    ref = open_images(shared, plain).put(png_bytes())
    assert open_images(shared, plain).get(ref) == png_bytes()
    assert not node.exists()
    assert open_images(shared, cached).get(ref) == png_bytes()
    assert image_path(node, ref.sha256).is_file()

    with pytest.raises(ConfigError, match=r"cluster\.image_cache: .*give an absolute path"):
        build_config({"cluster": {"image_cache": "copies"}})
