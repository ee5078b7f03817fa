"""Images that expand, lie about themselves or are no images, as data."""

import io
import struct
import zlib
from typing import Final

from PIL import Image

BOMB: Final = b"\0" * 30_000_000


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *extra: bytes, data: bytes | None = None, depth: int = 8) -> bytes:
    """A grey PNG with any header, extra chunks and image data."""
    rows = b"\0" * ((width * depth // 8 + 1) * height) if data is None else data
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", *screen) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    image = b"," + struct.pack("<HHHH", 0, 0, *frame) + b"\0"
    return head + image + b"\x02\x02\x4c\x01\0;"


def webp_canvas(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_that_claims(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, format="JPEG")
    data = bytearray(buffer.getvalue())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


REFUSED: Final[dict[str, bytes]] = {
    "png of 60,000 x 60,000": png(60_000, 60_000, data=b""),
    "png of 2^31 x 1": png(2**31 - 1, 1, data=b""),
    "png of 1 x 2^31": png(1, 2**31 - 1, data=b""),
    "png of nothing": png(0, 0, data=b""),
    "png whose data is short": png(500, 500, data=b"\0" * 100),
    "jpeg that claims 65,535 squared": jpeg_that_claims(65_535, 65_535),
    "bmp of 100,000 squared": bmp(100_000, 100_000),
    "bmp of negative size": bmp(-5, -2_000_000_000),
    "gif whose screen is huge": gif((65_535, 65_535), (1, 1)),
    "gif whose frame is huge": gif((1, 1), (65_535, 65_535)),
    "webp with a huge canvas": webp_canvas(1 << 24, 1 << 24),
    "text chunk that unfolds": png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(BOMB))),
    "profile that unfolds": png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(BOMB))),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>x</script></svg>',
    "svg entities that expand": b'<!DOCTYPE l [<!ENTITY a "lol">]><svg>&a;&a;</svg>',
    "svg, gzipped": zlib.compress(b"<svg/>"),
    "pdf": b"%PDF-1.7\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n",
    "html": b"<!doctype html><img src=x onerror=alert(1)>",
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "png signature alone": b"\x89PNG\r\n\x1a\n",
    "html behind a jpeg marker": b"\xff\xd8\xff<html>",
    "python pickle": b"\x80\x04\x95cos\nsystem\n(S'id'\ntR.",
}
