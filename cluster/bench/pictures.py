"""Pictures of an evaluation as files under the names that the benchmarks' own tools look for."""

import hashlib
import io
import logging
import re
from pathlib import Path

from PIL import Image

from core.errors import StageError
from core.files import write_atomic
from core.protocols import ImageStore
from core.records import ImageRef

logger = logging.getLogger(__name__)

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ENDINGS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


def file_stem(task_id: str) -> str:
    """The id itself where it is a plain file name; else a digest of it. Never a path."""
    if _PLAIN.fullmatch(task_id):
        return task_id
    return hashlib.sha256(task_id.encode()).hexdigest()[:24]


def write_png(ref: ImageRef, path: Path, *, images: ImageStore) -> None:
    """The image as a PNG file."""
    _write(ref, path, images=images, as_png=ref.media_type != "image/png")


def write_as_is(ref: ImageRef, path: Path, *, images: ImageStore) -> None:
    """The image's own bytes; `path` ends as `ending` says."""
    _write(ref, path, images=images, as_png=False)


def _write(ref: ImageRef, path: Path, *, images: ImageStore, as_png: bool) -> None:
    """A file that is right already is left alone. One image whose bytes are gone is left out, with
    a warning: the results of all others are still written."""
    try:
        data = images.get(ref)
    except StageError as error:
        logger.warning("%s is not written: %s", path, error)
        return
    if as_png:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(data)) as picture:
            picture.save(buffer, format="PNG")
        data = buffer.getvalue()
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)


def ending(ref: ImageRef) -> str:
    """E.g. ".jpg"."""
    return _ENDINGS[ref.media_type]
