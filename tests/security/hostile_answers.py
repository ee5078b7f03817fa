"""Responses and bodies of servers that mean harm, as data."""

import gzip
import zlib

BOMB = b"\0" * 50_000_000
HEAD = b"HTTP/1.1 200 OK\r\n"
ENDLESS_HEADERS = [b"X-%d: %s\r\n" % (number, b"y" * 4000) for number in range(5000)]
RESPONSES = {
    "one endless header": [HEAD, b"X: ", *[b"y" * 10_000] * 500],
    "endless headers": [HEAD, *ENDLESS_HEADERS],
    "many small headers": [HEAD, *[b"A: b\r\n"] * 5000, b"Content-Length: 1\r\n\r\nx"],
    "an endless status line": [b"HTTP/1.1 200 ", *[b"y" * 10_000] * 500],
    "no HTTP at all": [b"+OK redis\r\n$-1\r\n"],
    "two lengths": [HEAD, b"Content-Length: 1\r\nContent-Length: 50\r\n\r\n", b"x" * 50],
    "a negative length": [HEAD, b"Content-Length: -1\r\n\r\nx"],
    "a body that is shorter than it says": [HEAD, b"Content-Length: 500\r\n\r\nx"],
    "a chunk of nonsense": [HEAD, b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\nx"],
    "an endless chunked body": [
        HEAD,
        b"Transfer-Encoding: chunked\r\n\r\n",
        *[b"2710\r\n" + b"x" * 10_000 + b"\r\n"] * 100,
    ],
    "nothing": [],
}


def raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body, 9)[2:-4]


BODIES: dict[str, tuple[str, bytes]] = {
    "gzip bomb": ("gzip", gzip.compress(BOMB)),
    "zlib bomb": ("deflate", zlib.compress(BOMB)),
    "raw deflate bomb": ("deflate", raw_deflate(BOMB)),
    "bomb in a bomb": ("gzip, gzip", gzip.compress(gzip.compress(BOMB))),
    "bomb behind a small body": ("gzip", gzip.compress(b"x") + gzip.compress(BOMB)),
    "unknown encoding": ("br", b"x"),
    "encoding that is no encoding": ("x" * 5000, b"x"),
    "damaged": ("gzip", gzip.compress(b"x" * 5000)[:-20] + b"y" * 20),
    "cut": ("gzip", gzip.compress(b"x" * 5000)[:-10]),
    "not compressed": ("gzip", b"<html>"),
    "long, and says so": ("identity", b"x" * 20_000),
    "long folded": ("gzip", gzip.compress(bytes(range(256)) * 400, 0)),
}
