"""Pictures as different from each other as photographs, and copies as the web has them."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from envs.images import clean_image


def made_picture(seed: int) -> Image.Image:
    """Soft light, a horizon, and shapes: as much and as little structure as a photograph has."""
    rng = np.random.default_rng(seed)
    width, height = (int(size) for size in rng.integers(200, 500, 2))
    soft = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    picture = soft.resize((width, height), Image.Resampling.BICUBIC)
    for _ in range(int(rng.integers(3, 9))):
        left, top = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
        box = (left, top, left + int(rng.integers(20, width)), top + int(rng.integers(20, height)))
        picture.paste(tuple(int(c) for c in rng.integers(0, 256, 3)), box)
    grain = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def copies(image: Image.Image) -> dict[str, bytes]:
    """The same picture as it may be found on the web."""
    width, height = image.size
    jpeg = encode(image, "JPEG", quality=85)
    return {
        "png": encode(image, "PNG"),
        "jpeg 85": jpeg,
        "jpeg 20": encode(image, "JPEG", quality=20),
        "webp 40": encode(image, "WEBP", quality=40),
        "gif": encode(image, "GIF"),
        "quarter": encode(image.resize((width // 4, height // 4)), "JPEG"),
        "triple": encode(image.resize((width * 3, height * 3)), "JPEG", quality=70),
        "squeezed": encode(image.resize((width, height // 2)), "PNG"),
        "grey": encode(image.convert("L"), "JPEG"),
        "brighter": encode(ImageEnhance.Brightness(image).enhance(1.15), "JPEG"),
        "cleaned twice": clean_image(clean_image(jpeg)),
    }
