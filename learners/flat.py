"""The flat weight buffer: where each tensor lies in it, and how it is cut into chunks.

Shared by both ends of the wire (learners/publish.py, learners/receive.py). A chunk holds whole
tensors, so that a receiver can look at each of them without joining arrays.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xxhash

from core.records import TensorSpec

ALIGNMENT = 64
"""Bytes; every tensor starts on a cache line, so that any dtype may view its slice."""

CHUNK_BYTES = 16 * 2**20
"""Tensors travel together up to the first that reaches this, and larger ones alone. A packed chunk
stays in the processor's cache between being packed, hashed and stored."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WORDS: Mapping[str, np.dtype[Any]] = {"float32": np.dtype("<u4"), "bfloat16": np.dtype("<u2")}
"""The bits of a number as an unsigned integer."""


def layout(state_dict: Mapping[str, torch.Tensor], *, dtype: str) -> tuple[TensorSpec, ...]:
    """Tensors in the order of the state dict. Raises ValueError for one that is not floating."""
    manifest: list[TensorSpec] = []
    end = 0
    for name, tensor in state_dict.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}; only floating-point weights are published")
        shape = tuple(int(size) for size in tensor.shape)
        spec = TensorSpec(name=name, dtype=dtype, shape=shape, offset=end)
        manifest.append(spec)
        end = end_of(spec)
    return tuple(manifest)


def cut(manifest: Sequence[TensorSpec]) -> Iterator[tuple[TensorSpec, ...]]:
    """The tensors of each chunk. A large one is alone, since it may be sent as it lies."""
    members: list[TensorSpec] = []
    for spec in manifest:
        if members and num_bytes(spec) >= CHUNK_BYTES:
            yield tuple(members)
            members = []
        members.append(spec)
        if end_of(spec) - members[0].offset >= CHUNK_BYTES:
            yield tuple(members)
            members = []
    if members:
        yield tuple(members)


def num_bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * int(DTYPES[spec.dtype].itemsize)


def end_of(spec: TensorSpec) -> int:
    """Where the next tensor begins."""
    return -(-(spec.offset + num_bytes(spec)) // ALIGNMENT) * ALIGNMENT


def view(part: np.ndarray, spec: TensorSpec, *, start: int) -> torch.Tensor:
    """The tensor inside the bytes from `start` on; never a copy.

    torch warns of read-only memory; whoever asks for a view of it only reads.
    """
    where = spec.offset - start
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        flat = torch.from_numpy(part[where : where + num_bytes(spec)])
    return flat.view(DTYPES[spec.dtype]).reshape(spec.shape)


def checksum(data: np.ndarray) -> str:
    """XXH3-128: as fast as memory is read, twenty times as fast as SHA-256. It finds damage; it
    does not keep out someone who means harm, who could as well send other weights."""
    return xxhash.xxh3_128_hexdigest(data.data)
