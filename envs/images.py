"""Images by content on one disk, and the one way in which bytes become pixels.

In: encoded bytes that nobody has checked. Out: an `ImageRef`, and the same bytes again, verified.
`put` raises DataError for what is not a whole PNG, JPEG or WebP image of a sane size; `get` raises
InfraError when a file is missing or changed. File names come from digests only.
"""

import hashlib
import io
import re
import warnings
from pathlib import Path

from PIL import Image

from core.errors import DataError, InfraError
from core.files import write_atomic
from core.records import ImageRef

FORMATS = ("PNG", "JPEG", "WEBP")
MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG with more pictures behind it, as many phones write them
    "WEBP": "image/webp",
}
MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""


class FileImageStore:
    """Implements core.protocols.ImageStore with one file per image under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def put(self, data: bytes) -> ImageRef:
        sha256 = hashlib.sha256(data).hexdigest()
        with _open(data) as image:
            media_type, (width, height) = MEDIA_TYPES[image.format or ""], image.size
        path = self._path(sha256)
        if not path.exists():
            write_atomic(path, data)
        return ImageRef(sha256=sha256, media_type=media_type, width=width, height=height)

    def get(self, ref: ImageRef) -> bytes:
        path = self._path(ref.sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InfraError(f"image {ref.sha256} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise InfraError(f"image {ref.sha256} has changed on disk", retryable=False)
        return data

    def _path(self, sha256: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise InfraError(f"{sha256[:80]!r} is no image digest", retryable=False)
        return self._folder / sha256[:2] / sha256


def decode_rgb(data: bytes) -> Image.Image:
    """The first frame as RGB, transparency laid on white. Raises DataError.

    Rollout, learner and renderer all decode with this, so that they see equal pixels.
    """
    with _open(data) as image:
        if image.has_transparency_data:
            coloured = image.convert("RGBA")
            white = Image.new("RGBA", coloured.size, "white")
            return Image.alpha_composite(white, coloured).convert("RGB")
        return image.convert("RGB")


def _open(data: bytes) -> Image.Image:
    """The image, decoded whole: a truncated file fails here and not in the middle of a step."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked just below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DataError(f"an image of {width} x {height} pixels is over {MAX_PIXELS} pixels")
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{len(data)} bytes are not a whole PNG, JPEG or WebP image") from error
    return image
