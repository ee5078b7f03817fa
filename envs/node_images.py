"""Copies of a run's images on a node's own disk, so that a shared folder is read once per node.

In: the folder that every node sees, and a folder of this node. Out: an ImageStore. Whatever is read
is checked against its digest: a copy that is damaged, cut off or foreign is made again. All
processes of a node may share one folder of copies, and runs may too. A copy is a help only: a disk
that is full or read-only is logged, and the shared folder goes on being read. An image that the
shared folder does not have whole is an InfraError.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from core.files import write_atomic
from core.protocols import ImageStore
from core.records import ImageRef
from core.sections.run import ClusterConfig
from envs.images import FileImageStore, image_path

logger = logging.getLogger(__name__)

SWEEP_SHARE = 0.1
"""Of the cap that one process writes between two looks at the whole folder."""


class NodeImages:
    """Implements core.protocols.ImageStore; `put` goes to the shared store alone."""

    def __init__(self, shared: ImageStore, folder: Path, *, max_bytes: int) -> None:
        """The folder stays under `max_bytes` but for what is written between two sweeps."""
        self._shared = shared
        self._folder = folder
        self._max_bytes = max_bytes
        self._unswept = max_bytes  # the first write looks at what others have left

    def put(self, data: bytes) -> ImageRef:
        return self._shared.put(data)

    def get(self, ref: ImageRef) -> bytes:
        path = image_path(self._folder, ref.sha256)
        data = _copy_at(path, ref)
        if data is None:
            data = self._shared.get(ref)
            self._keep(path, data)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            write_atomic(path, data)
            self._unswept += len(data)
            if self._unswept > SWEEP_SHARE * self._max_bytes:
                self._sweep()
                self._unswept = 0
        except OSError as error:
            logger.warning("no copies of images in %s: %s", self._folder, error)

    def _sweep(self) -> None:
        """Drop the least recently used, drafts of processes that were killed among them."""
        files = sorted(_files(self._folder))
        excess = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, path in files:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def open_images(shared: Path, config: ClusterConfig) -> ImageStore:
    """The images of a run for a process that may be on any node."""
    store = FileImageStore(shared)
    if config.image_cache is None:
        return store
    max_bytes = int(config.image_cache_gib * 2**30)
    return NodeImages(store, Path(config.image_cache), max_bytes=max_bytes)


def _copy_at(path: Path, ref: ImageRef) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        logger.warning("the copy %s is damaged; it is made again", path)
        return None
    with suppress(OSError):
        os.utime(path)
    return data


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(last use in ns, bytes, path)"""
    for path in folder.glob("*/*"):
        with suppress(OSError):  # another process has dropped it
            found = path.stat()
            yield found.st_mtime_ns, found.st_size, path
