"""Weights on their way out: a state dict becomes a `WeightUpdate` and its payload.

In: the learner's `state_dict()` (never `named_parameters()`: a tied `lm_head.weight` must be in
it, or the engine keeps an old head without a word). Out: a dense update, every weight in the
rollout's dtype; or a delta, the bits that changed since the last update (learners/delta.py), from
which the receiver makes the very same bits. The other end is learners/receive.py. Raises
ValueError for tensors that are not floating point.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import torch

from core.records import TensorSpec, WeightChunk, WeightUpdate
from learners import delta
from learners.flat import DTYPES, WORDS, checksum, cut, end_of, layout, num_bytes, view

MAX_DELTA_DENSITY = 0.05
"""Share of changed words up to which "auto" sends a delta: about a tenth of the dense bytes."""

_BLOCK_WORDS = 2**18
"""Words that are compared at once; they stay in the processor's cache."""
_SAMPLED_BLOCKS = 64
_NUM_THREADS = min(4, os.cpu_count() or 1)
"""Chunks that are packed, hashed and stored at the same time: the rollout workers wait for them."""


class WeightPublisher:
    """Keeps the flat buffer of the last update, both to compare with and to be written again."""

    def __init__(
        self,
        *,
        dtype: str,
        mode: Literal["auto", "dense", "delta"] = "dense",
        snapshot_every: int = 1,
        store: Callable[[np.ndarray], Any] = np.copy,
    ) -> None:
        """`dtype`: "float32" or "bfloat16". Every `snapshot_every`-th update is dense in any mode.
        `store` takes each array of the payload away, since its memory is used again; several
        threads call it."""
        self._dtype = dtype
        self._mode = mode
        self._snapshot_every = snapshot_every
        self._store = store
        self._manifest: tuple[TensorSpec, ...] = ()
        self._flat = np.zeros(0, np.uint8)
        self._word = WORDS[dtype]
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="publish")
        self._version: int | None = None
        self._since_snapshot = 0

    def forget(self) -> None:
        """The next update is dense: the receivers may not have the last one."""
        self._version = None

    def publish(
        self, state_dict: Mapping[str, torch.Tensor], *, version: int
    ) -> tuple[WeightUpdate, tuple[Any, ...]]:
        """The update, and what `store` gave for the array of each chunk."""
        manifest = layout(state_dict, dtype=self._dtype)
        if manifest != self._manifest:
            self._manifest, self._version = manifest, None
            self._flat = np.zeros(end_of(manifest[-1]) if manifest else 0, np.uint8)
        base = self._version if self._sends_delta(state_dict) else None
        self._version = None  # until this ends well, the buffer is of no version
        write = self._write_all if base is None else self._write_changed

        def send(members: Sequence[TensorSpec]) -> tuple[WeightChunk, Any]:
            start, stop = members[0].offset, end_of(members[-1])
            wire = write(state_dict, members)
            on_wire = checksum(wire)
            whole = on_wire if base is None else checksum(self._flat[start:stop])
            chunk = WeightChunk(start=start, stop=stop, checksum=whole, wire_checksum=on_wire)
            return chunk, self._store(wire)

        sent = list(self._threads.map(send, cut(manifest)))
        self._version = version
        self._since_snapshot = 0 if base is None else self._since_snapshot + 1
        update = WeightUpdate(
            version=version,
            base_version=base,
            manifest=manifest,
            chunks=tuple(chunk for chunk, _ in sent),
        )
        return update, tuple(stored for _, stored in sent)

    def _sends_delta(self, state_dict: Mapping[str, torch.Tensor]) -> bool:
        if self._version is None or self._since_snapshot + 1 >= self._snapshot_every:
            return False
        if self._mode == "auto":
            return self._density(state_dict) <= MAX_DELTA_DENSITY
        return self._mode == "delta"

    def _density(self, state_dict: Mapping[str, torch.Tensor]) -> float:
        """Share of changed words, from blocks all over the buffer."""
        blocks = [(spec, at) for spec in self._manifest for at in _block_starts(spec)]
        sampled = blocks[:: max(1, len(blocks) // _SAMPLED_BLOCKS)]
        scratch = np.empty(_BLOCK_WORDS, self._word)
        changed = total = 0
        for spec, of_spec in groupby(sampled, key=itemgetter(0)):
            flat = state_dict[spec.name].detach().reshape(-1)
            for _, at in of_spec:
                new, old = self._compare(flat, spec, at, scratch)
                changed += delta.changed(new, old).size
                total += new.size
        return changed / max(1, total)

    def _write_all(
        self, state_dict: Mapping[str, torch.Tensor], members: Sequence[TensorSpec]
    ) -> np.ndarray:
        """The chunk's bytes. Where nothing will be compared with them, a tensor that has them
        already is sent as it lies there, which spares a copy."""
        first = state_dict[members[0].name].detach()
        alone = (
            len(members) == 1 and num_bytes(members[0]) == end_of(members[0]) - members[0].offset
        )
        if self._mode == "dense" and alone and self._lies_ready(first):
            return _bytes_of(first)
        for spec in members:
            view(self._flat, spec, start=0).copy_(state_dict[spec.name].detach())
        return self._flat[members[0].offset : end_of(members[-1])]

    def _write_changed(
        self, state_dict: Mapping[str, torch.Tensor], members: Sequence[TensorSpec]
    ) -> np.ndarray:
        """The chunk's delta; the buffer is brought up to date on the way."""
        scratch = np.empty(_BLOCK_WORDS, self._word)
        positions: list[np.ndarray] = []
        differences: list[np.ndarray] = []
        for spec in members:
            first = (spec.offset - members[0].offset) // self._word.itemsize
            flat = state_dict[spec.name].detach().reshape(-1)
            for at in _block_starts(spec):
                new, old = self._compare(flat, spec, at, scratch)
                changed = delta.changed(new, old)
                positions.append(changed + (first + at))
                differences.append(new[changed] - old[changed])
                old[changed] = new[changed]
        return delta.encode(_joined(positions, np.int64), _joined(differences, self._word))

    def _compare(
        self, flat: torch.Tensor, spec: TensorSpec, at: int, scratch: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The bits of one block of a tensor [n], now (where it lies, or in `scratch`) and in the
        buffer, which can be written."""
        whole = self._flat[spec.offset : spec.offset + num_bytes(spec)].view(self._word)
        old = whole[at : at + _BLOCK_WORDS]
        block = flat[at : at + _BLOCK_WORDS]
        if self._lies_ready(block):
            return _bytes_of(block).view(self._word), old
        new = scratch[: old.size]
        torch.from_numpy(new.view(np.uint8)).view(DTYPES[self._dtype]).copy_(block)
        return new, old

    def _lies_ready(self, tensor: torch.Tensor) -> bool:
        """Its memory holds what is sent."""
        on_cpu = tensor.dtype == DTYPES[self._dtype] and tensor.device.type == "cpu"
        return on_cpu and bool(tensor.is_contiguous())


def _bytes_of(tensor: torch.Tensor) -> np.ndarray:
    found: np.ndarray = tensor.reshape(-1).view(torch.uint8).numpy()
    return found


def _block_starts(spec: TensorSpec) -> Iterator[int]:
    yield from range(0, int(np.prod(spec.shape, dtype=np.int64)), _BLOCK_WORDS)


def _joined(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)
