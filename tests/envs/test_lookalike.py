"""envs/lookalike.py: the threshold, measured on made pictures."""

import pytest
from PIL import Image

from core.errors import DataError
from envs.lookalike import MAX_DISTANCE, distance, fingerprint
from tests.builders import png_bytes
from tests.made_pictures import copies, encode, made_picture

NUM_PICTURES = 200


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
