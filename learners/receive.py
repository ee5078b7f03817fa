"""Weights on their way in: a `WeightUpdate` and its payload become tensors to load.

`WeightReceiver` keeps the flat buffer of the last update, on which a delta builds. Every chunk is
checked, as it travelled and as it comes out, before a tensor is given out. Raises InfraError for a
payload that is damaged or that builds on another version; the next update must then be dense.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from core.errors import InfraError
from core.records import TensorSpec, WeightChunk, WeightUpdate
from learners import delta
from learners.flat import WORDS, checksum, end_of, view


class WeightReceiver:
    """One per engine; not for several threads at once."""

    def __init__(self, allocate: Callable[[int], np.ndarray] | None = None) -> None:
        """`allocate`: gives the flat buffer, of so many bytes, when every payload is to be copied
        into one. Without it, read-only arrays (of Ray's object store) are looked at where they
        are, and a private buffer is made only when a delta comes."""
        self._allocate = allocate
        self._own = np.zeros(0, np.uint8)
        self._parts: tuple[np.ndarray, ...] = ()
        """The flat buffer, chunk by chunk."""
        self._last: WeightUpdate | None = None

    def receive(
        self, update: WeightUpdate, payload: Sequence[np.ndarray]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) in the order of the manifest. The tensors are views: only read them, and
        only until the next update is received."""
        last, self._last = self._last, None
        _check_form(update, payload)
        if update.base_version is None:
            self._take_dense(update, payload)
        elif last is None or last.version != update.base_version:
            has = "none" if last is None else f"version {last.version}"
            raise InfraError(
                f"weight update {update.version} builds on version {update.base_version}, "
                f"but here is {has}"
            )
        elif last.manifest != update.manifest:
            raise InfraError(f"weight update {update.version} is of another model than its base")
        else:
            self._take_delta(update, payload)
        self._last = update
        return tensors(update, self._parts)

    def receive_chain(
        self, updates: Sequence[WeightUpdate], payloads: Sequence[Sequence[np.ndarray]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """What `receive` gives for the last of several updates."""
        *earlier, last = zip(updates, payloads, strict=True)
        for update, payload in earlier:
            self.receive(update, payload)
        return self.receive(*last)

    def _take_dense(self, update: WeightUpdate, payload: Sequence[np.ndarray]) -> None:
        keep = self._allocate is None and not any(part.flags.writeable for part in payload)
        if not keep:
            self._copy(update, payload)
        else:
            self._parts = tuple(payload)
        for chunk, part in zip(update.chunks, self._parts, strict=True):
            _check(update, chunk.checksum, part)

    def _take_delta(self, update: WeightUpdate, payload: Sequence[np.ndarray]) -> None:
        if not all(part.flags.writeable for part in self._parts):
            self._copy(update, self._parts)
        for chunk, part, encoded in zip(update.chunks, self._parts, payload, strict=True):
            _check(update, chunk.wire_checksum, encoded)
            try:
                delta.apply(encoded, part.view(WORDS[update.manifest[0].dtype]))
            except ValueError as error:
                raise InfraError(f"weight update {update.version}: {error}") from error
            _check(update, chunk.checksum, part)

    def _copy(self, update: WeightUpdate, parts: Sequence[np.ndarray]) -> None:
        """Into the buffer of our own, whose pages stay warm from one update to the next."""
        size = _size(update)
        if self._own.size != size:
            self._own = (self._allocate or _empty)(size)
        own = tuple(self._own[chunk.start : chunk.stop] for chunk in update.chunks)
        for mine, theirs in zip(own, parts, strict=True):
            mine[:] = theirs
        self._parts = own


def tensors(
    update: WeightUpdate, parts: Sequence[np.ndarray]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Views of the flat buffer that is given chunk by chunk."""
    chunks = iter(zip(update.chunks, parts, strict=True))
    chunk, part = None, np.zeros(0, np.uint8)
    for spec in update.manifest:
        while chunk is None or not _holds(chunk, spec):
            chunk, part = next(chunks)
        yield spec.name, view(part, spec, start=chunk.start)


def _holds(chunk: WeightChunk, spec: TensorSpec) -> bool:
    return chunk.start <= spec.offset and end_of(spec) <= chunk.stop


def _size(update: WeightUpdate) -> int:
    return update.chunks[-1].stop if update.chunks else 0


def _empty(size: int) -> np.ndarray:
    return np.empty(size, np.uint8)


def _check_form(update: WeightUpdate, payload: Sequence[np.ndarray]) -> None:
    """The payload has the arrays that the update describes."""
    if len(payload) != len(update.chunks):
        raise InfraError(
            f"weight update {update.version} needs {len(update.chunks)} arrays, got {len(payload)}"
        )
    for chunk, part in zip(update.chunks, payload, strict=True):
        size = chunk.stop - chunk.start
        if part.dtype != np.uint8 or part.ndim != 1:
            raise InfraError(f"weight update {update.version}: a chunk is not flat bytes")
        if update.base_version is None and part.size != size:
            raise InfraError(
                f"weight update {update.version} needs {size} bytes from {chunk.start} on, "
                f"got {part.size}"
            )


def _check(update: WeightUpdate, expected: str, part: np.ndarray) -> None:
    if checksum(part) != expected:
        raise InfraError(f"weight update {update.version} arrived with a wrong checksum")
