"""An image as a judge is sent it.

Upright (EXIF), transparency laid on white, shrunk to a longest side of `max_side` pixels and never
enlarged; PNG when that takes at most 256 KiB, else JPEG at quality 95 without colour subsampling.
A PNG or JPEG that is like that already is sent byte by byte as it is. Equal bytes and sizes give
equal pictures. Raises JudgeError for what is no image.
"""

import io

from PIL import Image, ImageOps

from core.chat_completions import Picture
from core.errors import JudgeError

MAX_PNG_BYTES = 256 << 10
MAX_JPEG_BYTES = 2 << 20


def judge_picture(data: bytes, *, max_side: int) -> Picture:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if _fits(opened, size=len(data), max_side=max_side):
                return Picture(data=data, media_type=Image.MIME[str(opened.format)])
            image = _on_white(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError) as error:
        message = f"an image for the judge cannot be read: {error}"
        raise JudgeError(message, retryable=False, error_type="BadImage") from error
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    png = _encoded(image, "PNG")
    if len(png) <= MAX_PNG_BYTES:
        return Picture(data=png, media_type="image/png")
    return Picture(data=_encoded(image, "JPEG", quality=95, subsampling=0), media_type="image/jpeg")


def _fits(image: Image.Image, *, size: int, max_side: int) -> bool:
    """Nothing has to be changed."""
    limit = {"PNG": MAX_PNG_BYTES, "JPEG": MAX_JPEG_BYTES}.get(image.format or "", 0)
    plain = image.mode == "RGB" and not image.has_transparency_data and not image.getexif()
    return plain and size <= limit and max(image.size) <= max_side


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured).convert("RGB")


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
