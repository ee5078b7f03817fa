"""envs/images.py: content addressing, refusals and pixels."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from core.errors import DataError, InfraError
from envs import images
from envs.images import FileImageStore, decode_rgb, image_path
from tests.builders import make_image_ref, png_bytes


def encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_bytes_come_back_with_type_and_size(tmp_path: Path, kind: str) -> None:
    store = FileImageStore(tmp_path)
    data = encode(Image.new("RGB", (20, 10), "red"), kind)
    ref = store.put(data)
    assert (ref.media_type, ref.width, ref.height) == (f"image/{kind.lower()}", 20, 10)
    assert store.get(ref) == data


def test_a_jpeg_with_more_pictures_behind_it_is_a_jpeg(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    red, blue = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (20, 10), "blue")
    red.save(buffer, format="MPO", save_all=True, append_images=[blue])
    assert FileImageStore(tmp_path).put(buffer.getvalue()).media_type == "image/jpeg"
    first = decode_rgb(buffer.getvalue()).getpixel((5, 5))
    assert isinstance(first, tuple)
    assert first[0] > 200


def test_equal_bytes_are_kept_once(tmp_path: Path) -> None:
    store = FileImageStore(tmp_path)
    assert store.put(png_bytes()) == store.put(png_bytes())
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize("data", [b"", b"<html>", png_bytes()[:60], b"GIF89a\x01\x00\x01\x00"])
def test_what_is_no_whole_image_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=f"{len(data)} bytes"):
        FileImageStore(tmp_path).put(data)


def test_a_huge_image_is_refused_undecoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="20 x 10 pixels"):
        FileImageStore(tmp_path).put(encode(Image.new("RGB", (20, 10)), "PNG"))


def test_a_damaged_file_is_whole_again_when_its_image_is_put(tmp_path: Path) -> None:
    """Else a picture that is drawn again would be a failure of the judge for ever."""
    store, data = FileImageStore(tmp_path), png_bytes()
    ref = store.put(data)
    image_path(tmp_path, ref.sha256).write_bytes(data[:-1])

    assert store.get(store.put(data)) == data


def test_missing_changed_and_misnamed_images_are_our_fault(tmp_path: Path) -> None:
    store = FileImageStore(tmp_path)
    with pytest.raises(InfraError, match="cannot be read"):
        store.get(make_image_ref("never put"))
    ref = store.put(png_bytes())
    next(path for path in tmp_path.rglob("*") if path.is_file()).write_bytes(b"other")
    with pytest.raises(InfraError, match="changed"):
        store.get(ref)
    with pytest.raises(InfraError, match="no image digest"):
        store.get(replace(ref, sha256="../../etc/passwd"))


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode_rgb(encode(half, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 255])
    palette.info["transparency"] = 0
    assert decode_rgb(encode(palette, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    assert decode_rgb(encode(Image.new("L", (4, 4), 7), "PNG")).getpixel((0, 0)) == (7, 7, 7)
