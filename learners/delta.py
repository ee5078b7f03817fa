"""The difference between two versions of the same weights, bit for bit, in few bytes.

    changed(new, old)               -> positions of the words that differ
    encode(positions, differences)  -> one array of uint8
    apply(encoded, words)           the words of the old version become those of the new one

Weights are words of 2 or 4 bytes (bfloat16, float32), and a difference is that of their bit
patterns, modulo the word: adding it gives the new bits exactly, whatever number they stand for. A
small optimizer step moves few bfloat16 weights, and those by one unit in the last place, so what
is sent is where (gaps between changed words) and by how much. Each is split into planes of equal
byte significance, of which the upper ones are nearly all zero, and deflated.

    encoded = count (8 bytes) + deflate(4 planes of gaps + 2 or 4 planes of differences)

`apply` raises ValueError for anything that `encode` cannot have made for so many words, and then
leaves them as they were.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_COUNT = np.dtype("<u8")
_GAP = np.dtype("<u4")
_SIGNED: Mapping[int, np.dtype[Any]] = {2: np.dtype("<i2"), 4: np.dtype("<i4")}


def changed(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Rising indices of the words that differ. Few do, so eight bytes are compared at a time."""
    in_eight = 8 // new.itemsize
    whole = new.size - new.size % in_eight
    new_eights, old_eights = (words[:whole].view(np.uint64) for words in (new, old))
    eights = np.flatnonzero(new_eights != old_eights)
    near = np.flatnonzero(
        new_eights.take(eights).view(new.dtype) != old_eights.take(eights).view(new.dtype)
    )
    last = np.flatnonzero(new[whole:] != old[whole:]) + whole
    return np.append(eights.take(near // in_eight) * in_eight + near % in_eight, last)


def encode(positions: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """`positions`: rising indices of changed words; `differences`: new - old of their bits.

    Both [N]; differences are unsigned words of 2 or 4 bytes.
    """
    gaps = np.diff(positions, prepend=-1) - 1
    body = _planes(gaps.astype(_GAP)) + _planes(_zigzag(differences))
    # Run-length matches and Huffman codes alone: nothing longer repeats, and it is twice as fast.
    deflate = zlib.compressobj(level=1, memLevel=9, strategy=zlib.Z_RLE)
    count = np.array([len(positions)], _COUNT).tobytes()
    return np.frombuffer(count + deflate.compress(body) + deflate.flush(), np.uint8)


def apply(encoded: np.ndarray, words: np.ndarray) -> None:
    """Add the differences to `words` [M] (unsigned, 2 or 4 bytes each), in place."""
    count = int(encoded[: _COUNT.itemsize].view(_COUNT)[0]) if encoded.size >= 8 else -1
    if not 0 <= count <= words.size:
        raise ValueError(f"a difference of {count} words cannot be one of {words.size}")
    size = count * (_GAP.itemsize + words.itemsize)
    inflate = zlib.decompressobj()
    try:
        body = inflate.decompress(encoded[_COUNT.itemsize :].data, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(body) != size or not inflate.eof or inflate.unused_data:
        raise ValueError(f"a difference of {count} words does not end where it should")
    planes = np.frombuffer(body, np.uint8)
    gaps = _words(planes[: count * _GAP.itemsize], _GAP)
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if count and positions[-1] >= words.size:
        raise ValueError(f"a difference names word {positions[-1]} of {words.size}")
    zigzag = _words(planes[count * _GAP.itemsize :], words.dtype)
    words[positions] += _unzigzag(zigzag)


def _zigzag(differences: np.ndarray) -> np.ndarray:
    """0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4: a small step either way has zero upper bytes."""
    signed = differences.view(_SIGNED[differences.itemsize])
    turned: np.ndarray = (signed << 1) ^ (signed >> (8 * signed.itemsize - 1))
    return turned


def _unzigzag(turned: np.ndarray) -> np.ndarray:
    restored: np.ndarray = (turned >> 1) ^ (~(turned & 1) + 1)
    return restored


def _planes(words: np.ndarray) -> bytes:
    """All lowest bytes, then all second ones, and so on."""
    return words.view(np.uint8).reshape(-1, words.itemsize).T.tobytes()


def _words(planes: np.ndarray, dtype: np.dtype) -> np.ndarray:
    words = np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T)
    return words.view(dtype).reshape(-1)
