"""envs.images.clean_image: what goes on of an image that a stranger sent."""

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from core.errors import DataError
from envs import images
from envs.images import clean_image, decode_rgb
from tests.builders import png_bytes


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def two_tone(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    return image


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_lossless_pictures_become_png_with_equal_pixels(kind: str) -> None:
    cleaned = opened(clean_image(encode(two_tone(), kind)))
    assert (cleaned.format, cleaned.mode) == ("PNG", "RGB")
    assert np.array_equal(np.asarray(cleaned), np.asarray(two_tone()))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP", "AVIF"])
def test_lossy_pictures_become_jpeg(kind: str) -> None:
    cleaned = opened(clean_image(encode(two_tone(), kind)))
    assert (cleaned.format, cleaned.mode, cleaned.size) == ("JPEG", "RGB", (40, 20))
    difference = np.abs(np.asarray(cleaned).astype(int) - np.asarray(two_tone()).astype(int))
    assert difference.mean() < 6


def test_equal_bytes_give_equal_bytes_and_a_clean_png_stays_as_it_is() -> None:
    data = encode(two_tone(), "JPEG")
    assert clean_image(data) == clean_image(data)
    assert clean_image(png_bytes()) == clean_image(clean_image(png_bytes()))


def test_metadata_stays_behind() -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("Comment", "SECRET-PLACE")
    exif = Image.Exif()
    exif[0x010E] = "SECRET-PLACE"
    for data in (
        encode(two_tone(), "PNG", pnginfo=about, exif=exif, icc_profile=b"SECRET-PLACE" * 20),
        encode(two_tone(), "JPEG", comment=b"SECRET-PLACE", exif=exif, icc_profile=b"SECRET-PLACE"),
        encode(two_tone(), "PNG") + b"SECRET-PLACE",
    ):
        assert b"SECRET-PLACE" in data or b"iCCP" in data
        cleaned = clean_image(data)
        assert b"SECRET" not in cleaned
        assert not set(opened(cleaned).info) & {"exif", "icc_profile", "Comment", "comment"}


@pytest.mark.parametrize(
    ("orientation", "size", "left"),
    [(1, (40, 20), "red"), (3, (40, 20), "blue"), (6, (20, 40), "")],
)
def test_a_picture_is_turned_upright(orientation: int, size: tuple[int, int], left: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    cleaned = opened(clean_image(encode(two_tone(), "PNG", exif=exif)))
    assert cleaned.size == size
    if left:
        assert cleaned.getpixel((2, 2)) == Image.new("RGB", (1, 1), left).getpixel((0, 0))
    else:  # turned right by a quarter: what was on the left is on top
        assert cleaned.getpixel((2, 2)) == (255, 0, 0)
        assert cleaned.getpixel((2, 37)) == (0, 0, 255)


def test_only_the_first_frame_goes_on() -> None:
    frames = [Image.new("RGB", (8, 8), "green"), Image.new("RGB", (8, 8), "red")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        cleaned = opened(clean_image(data))
        red, green, blue = np.asarray(cleaned)[4, 4].astype(int)
        assert abs(red) + abs(green - 128) + abs(blue) < 12
        assert getattr(cleaned, "n_frames", 1) == 1


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG", (127, 127, 127)),
        (Image.new("LA", (8, 8), (0, 0)), "PNG", (255, 255, 255)),
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
        (Image.new("L", (8, 8), 7), "PNG", (7, 7, 7)),
        (Image.fromarray(np.full((8, 8), 30_000, np.uint16)), "PNG", (117, 117, 117)),
        (Image.new("RGB", (8, 8), (0, 204, 0)).convert("P"), "GIF", (0, 204, 0)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb_on_white(
    image: Image.Image, kind: str, expected: tuple[int, int, int]
) -> None:
    assert opened(clean_image(encode(image, kind))).getpixel((4, 4)) == expected


def test_printers_colours_become_rgb() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = np.asarray(opened(clean_image(encode(ink, "JPEG"))))[8, 8].astype(int)
    assert red > 240
    assert max(green, blue) < 15


def test_a_large_picture_is_shrunk_and_keeps_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_CLEAN_SIDE", 64)
    for kind in ("JPEG", "PNG"):
        assert opened(clean_image(encode(two_tone((400, 200)), kind))).size == (64, 32)
    assert opened(clean_image(encode(two_tone((4000, 4)), "PNG"))).size == (64, 1)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG header of any size over a few bytes of data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        )

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html><img src=x></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"%PDF-1.7\n1 0 obj",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        b"II*\0\x08\0\0\0",
        encode(two_tone(), "TIFF"),
        encode(two_tone(), "PPM"),
        encode(two_tone(), "ICO"),
        encode(two_tone(), "JPEG")[:200],
        encode(two_tone(), "PNG")[:60],
        png_that_claims(100, 100),
        png_that_claims(60_000, 60_000),
        png_that_claims(0, 10),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_whole_picture_of_a_known_kind_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        clean_image(data)


SEEDS = [
    encode(two_tone(), kind, **options)
    for kind, options in (("PNG", {}), ("JPEG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {}))
]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 4000),
)
def test_a_damaged_file_is_a_picture_or_a_data_error(
    seed: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        cleaned = clean_image(bytes(data[: max(1, cut)]))
    except DataError:
        return
    assert decode_rgb(cleaned).mode == "RGB"
