"""envs/lookalike.py: the threshold, measured on made pictures."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from core.errors import DataError
from envs.images import clean_image
from envs.lookalike import MAX_DISTANCE, distance, fingerprint
from tests.builders import png_bytes

NUM_PICTURES = 200


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


def known(data: bytes) -> int:
    print_ = fingerprint(data)
    assert print_ is not None
    return print_


@pytest.mark.slow
def test_copies_are_near_and_others_are_far() -> None:
    pictures = [made_picture(seed) for seed in range(NUM_PICTURES)]
    prints = [known(encode(picture, "PNG")) for picture in pictures]
    farthest_copy = max(
        distance(known(copy), original)
        for picture, original in zip(pictures[:40], prints, strict=False)
        for copy in copies(picture).values()
    )
    nearest_other = min(
        distance(one, other) for place, one in enumerate(prints) for other in prints[:place]
    )
    print(f"farthest copy {farthest_copy}, nearest other {nearest_other}")
    assert farthest_copy <= MAX_DISTANCE * 0.8
    assert nearest_other >= MAX_DISTANCE * 1.4


@pytest.mark.parametrize("name", list(copies(made_picture(0))))
def test_a_copy_is_known_again(name: str) -> None:
    original = made_picture(7)
    assert distance(known(copies(original)[name]), known(encode(original, "PNG"))) <= MAX_DISTANCE


def test_a_phone_picture_is_known_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = made_picture(3).transpose(Image.Transpose.ROTATE_90)
    upright = known(encode(made_picture(3), "PNG"))
    assert distance(known(encode(lying, "PNG", exif=exif)), upright) <= MAX_DISTANCE


def test_a_picture_of_one_colour_has_no_fingerprint() -> None:
    assert fingerprint(png_bytes((0, 0, 0))) is None
    assert fingerprint(png_bytes((255, 0, 0))) is None


def test_what_is_no_image_is_a_data_error() -> None:
    with pytest.raises(DataError):
        fingerprint(b"no image")
