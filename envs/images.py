"""Images by content on one disk, and the one way in which bytes become pixels.

In: encoded bytes that nobody has checked. Out: an `ImageRef`, and the same bytes again, verified.
`put` raises DataError for what is not a whole PNG, JPEG or WebP image of a sane size; `get` raises
InfraError when a file is missing or changed. File names come from digests only. What a stranger
sent goes through `clean_image` first: only its pixels get into the house.
"""

import hashlib
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
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
WEB_FORMATS = (*FORMATS, "GIF", "BMP", "AVIF")
"""What browsers show and is made of pixels; told by content, never by a name or a header."""
LOSSLESS_FORMATS = frozenset({"PNG", "GIF", "BMP"})
MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""
MAX_CLEAN_SIDE = 2048
"""Larger images from outside are shrunk: no image model and no judge looks closer."""
JPEG_QUALITY = 92

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(AttributeError, RuntimeError, MemoryError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
"""What Pillow's readers are known to raise when a stranger wrote the file."""


class FileImageStore:
    """Implements core.protocols.ImageStore with one file per image under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def put(self, data: bytes) -> ImageRef:
        ref = image_ref(data)
        path = image_path(self._folder, ref.sha256)
        if not path.is_file() or path.read_bytes() != data:  # a damaged file is made whole again
            write_atomic(path, data)
        return ref

    def get(self, ref: ImageRef) -> bytes:
        path = image_path(self._folder, ref.sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InfraError(f"image {ref.sha256} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise InfraError(f"image {ref.sha256} has changed on disk", retryable=False)
        return data


def image_path(folder: Path, sha256: str) -> Path:
    """Where an image with this digest lies in a folder of images. Raises InfraError."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InfraError(f"{sha256[:80]!r} is no image digest", retryable=False)
    return folder / sha256[:2] / sha256


def image_ref(data: bytes) -> ImageRef:
    """What names these bytes. Raises DataError when they are no whole image."""
    with _open(data) as image:
        media_type, (width, height) = MEDIA_TYPES[image.format or ""], image.size
    sha256 = hashlib.sha256(data).hexdigest()
    return ImageRef(sha256=sha256, media_type=media_type, width=width, height=height)


def decode_rgb(data: bytes) -> Image.Image:
    """The first frame as RGB, transparency laid on white. Raises DataError.

    Rollout, learner and renderer all decode with this, so that they see equal pixels.
    """
    with _open(data) as image:
        return _to_rgb(image)


def decode_grey(data: bytes, *, side: int) -> np.ndarray:
    """[side, side] float64 grey values of the whole picture, however it is shaped; for telling
    pictures apart, not for showing them. Raises DataError."""
    try:
        with _open(data, WEB_FORMATS, max_side=2 * side) as image:
            grey = _upright(_to_rgb(image), image).convert("L")
            return np.asarray(grey.resize((side, side), Image.Resampling.LANCZOS), np.float64)
    except _DECODER_ERRORS as error:
        raise DataError(f"an image of {len(data)} bytes cannot be read") from error


def clean_image(data: bytes) -> bytes:
    """Bytes from outside as a freshly encoded PNG or JPEG (JPEG when they were lossy already).

    Only the pixels of the first frame go on, turned upright as EXIF says: metadata, colour
    profiles (a stranger's profile is not worth parsing) and further frames stay behind.
    Transparency is laid on white here, because all of our own readers do so and an outside judge
    or image model must see the same picture. Equal bytes give equal bytes. Raises DataError.
    """
    try:
        with _open(data, WEB_FORMATS, max_side=MAX_CLEAN_SIDE) as image:
            lossless = image.format in LOSSLESS_FORMATS
            pixels = _upright(_to_rgb(image), image)
            pixels.thumbnail((MAX_CLEAN_SIDE, MAX_CLEAN_SIDE), reducing_gap=2.0)
            return _encode(pixels, lossless=lossless)
    except _DECODER_ERRORS as error:
        raise DataError(f"an image of {len(data)} bytes cannot be read") from error


def _open(
    data: bytes, formats: tuple[str, ...] = FORMATS, *, max_side: int | None = None
) -> Image.Image:
    """The image, decoded whole: a truncated file fails here and not in the middle of a step.

    A JPEG may come smaller than it is, though not smaller than `max_side`, which saves time.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DataError(f"an image of {width} x {height} pixels is over {MAX_PIXELS} pixels")
        if max_side is not None:
            image.draft(None, (max_side, max_side))
        image.load()
    except _DECODER_ERRORS as error:
        known = ", ".join(formats[:-1])
        message = f"{len(data)} bytes are not a whole {known} or {formats[-1]} image"
        raise DataError(message) from error
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would cut them off at 255
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        coloured = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def _upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(source.getexif().get(_ORIENTATION, 1))
    except _DECODER_ERRORS:
        turn = None  # broken metadata does not make the picture worse
    return pixels if turn is None else pixels.transpose(turn)


def _encode(pixels: Image.Image, *, lossless: bool) -> bytes:
    bare = Image.new("RGB", pixels.size)  # whatever `pixels` carries beside pixels stays behind
    bare.paste(pixels)
    buffer = io.BytesIO()
    if lossless:
        bare.save(buffer, format="PNG")
    else:
        bare.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return buffer.getvalue()
