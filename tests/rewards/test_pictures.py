"""The rule by which an image is sent to a judge."""

import io
import random

import pytest
from PIL import Image

from core.errors import JudgeError
from rewards.pictures import MAX_PNG_BYTES, judge_picture
from tests.builders import png_bytes


def _encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_small_picture_is_sent_without_loss_and_never_enlarged() -> None:
    picture = judge_picture(png_bytes(size=(40, 20)), max_side=1024)
    assert picture.media_type == "image/png"
    assert (_open(picture.data).size, _open(picture.data).format) == ((40, 20), "PNG")


def test_a_large_picture_is_shrunk_to_the_longest_side() -> None:
    picture = judge_picture(png_bytes(size=(600, 300)), max_side=100)
    assert _open(picture.data).size == (100, 50)


def test_what_png_makes_large_is_sent_as_jpeg() -> None:
    noise = Image.frombytes("RGB", (512, 512), random.Random(0).randbytes(512 * 512 * 3))
    picture = judge_picture(_encode(noise), max_side=1024)
    assert (picture.media_type, _open(picture.data).format) == ("image/jpeg", "JPEG")
    assert len(_encode(noise)) > MAX_PNG_BYTES


def test_transparency_reaches_the_judge_as_white() -> None:
    clear = _encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert _open(judge_picture(clear, max_side=64).data).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_that_lies_on_its_side_is_put_upright() -> None:
    image = Image.new("RGB", (8, 4), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    lying = _encode(image, "JPEG", exif=exif)
    assert _open(judge_picture(lying, max_side=64).data).size == (4, 8)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"x" * 40])
def test_what_is_no_image_is_a_fault_that_is_not_retried(data: bytes) -> None:
    with pytest.raises(JudgeError, match="cannot be read") as caught:
        judge_picture(data, max_side=64)
    assert not caught.value.retryable


def test_what_is_right_already_is_sent_as_it_is() -> None:
    for data in (png_bytes(), _encode(Image.new("RGB", (9, 9), "blue"), "JPEG", quality=80)):
        assert judge_picture(data, max_side=64).data == data
