"""Images that expand, lie about themselves or are no images: refused, or reduced to few pixels."""

import io
import tracemalloc

import pytest
from PIL import Image

from core.errors import DataError
from envs.images import MAX_CLEAN_SIDE, clean_image
from tests.security.hostile_images import BOMB, REFUSED, png


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_image_is_refused_within_little_memory(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError):
        clean_image(REFUSED[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_data_that_unfolds_behind_the_last_row_is_left_folded() -> None:
    cleaned = clean_image(png(8, 8, data=b"\0" * 72 + BOMB))
    assert len(cleaned) < 1000


def test_a_script_behind_the_picture_stays_behind() -> None:
    polyglot = png(8, 8) + b"<script>alert(1)</script>PK\x03\x04"
    assert b"script" not in clean_image(polyglot)


def test_what_unfolds_within_the_limit_goes_on_small() -> None:
    """8,000 x 8,000 white-and-black pixels in a few kilobytes: 64 million, just allowed."""
    cleaned = clean_image(png(8000, 8000, depth=1))
    with Image.open(io.BytesIO(cleaned)) as image:
        assert image.size == (MAX_CLEAN_SIDE, MAX_CLEAN_SIDE)
