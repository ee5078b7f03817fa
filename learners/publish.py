"""Weights on the wire: a state dict <-> one flat buffer and its manifest.

In: the learner's `state_dict()` (never `named_parameters()`: a tied `lm_head.weight` must be in
it, or the engine keeps an old head without a word). Out: a dense `WeightUpdate` and one uint8
buffer in the rollout's dtype, which travels zero-copy through Ray's object store. The receiver
gets the tensors as views of that buffer. Fails with InfraError when the payload is not what the
update describes.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from core.errors import InfraError
from core.records import TensorSpec, WeightUpdate

ALIGNMENT = 64
"""Bytes; every tensor starts on a cache line, so that any dtype may view its slice."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pack_weights(
    state_dict: Mapping[str, torch.Tensor], *, version: int, dtype: str
) -> tuple[WeightUpdate, np.ndarray]:
    """All tensors as `dtype` ("float32" or "bfloat16") in one flat uint8 buffer.

    Tensors that are not floating point are refused with ValueError: a policy has none.
    """
    target = _DTYPES[dtype]
    manifest: list[TensorSpec] = []
    end = 0
    for name, tensor in state_dict.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}; only floating-point weights are published")
        shape = tuple(int(size) for size in tensor.shape)
        manifest.append(TensorSpec(name=name, dtype=dtype, shape=shape, offset=end))
        end = _align(end + tensor.numel() * target.itemsize)

    payload = np.zeros(end, dtype=np.uint8)
    buffer = torch.from_numpy(payload)
    for spec, tensor in zip(manifest, state_dict.values(), strict=True):
        _view(buffer, spec).copy_(tensor.detach())
    update = WeightUpdate(
        version=version, base_version=None, manifest=tuple(manifest), checksum=checksum(payload)
    )
    return update, payload


def unpack_weights(update: WeightUpdate, payload: np.ndarray) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) in the order of the manifest; the tensors are views of `payload`.

    A buffer that came through Ray is read-only, so treat the views as read-only too. Everything
    is checked before the first tensor is given out. Raises InfraError.
    """
    if update.base_version is not None:
        raise InfraError(
            f"weight update {update.version} builds on version {update.base_version}, "
            "but only dense updates are understood",
            retryable=False,
        )
    end = max((_align(spec.offset + _num_bytes(spec)) for spec in update.manifest), default=0)
    if payload.dtype != np.uint8 or payload.shape != (end,):
        raise InfraError(
            f"weight update {update.version} needs {end} bytes, "
            f"got {payload.dtype} of shape {payload.shape}"
        )
    if checksum(payload) != update.checksum:
        raise InfraError(f"weight update {update.version} arrived with a wrong checksum")
    buffer = _as_tensor(payload)
    return ((spec.name, _view(buffer, spec)) for spec in update.manifest)


def checksum(payload: np.ndarray) -> str:
    return hashlib.sha256(payload.data).hexdigest()


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _num_bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * int(_DTYPES[spec.dtype].itemsize)


def _view(buffer: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    chunk = buffer[spec.offset : spec.offset + _num_bytes(spec)]
    return chunk.view(_DTYPES[spec.dtype]).reshape(spec.shape)


def _as_tensor(payload: np.ndarray) -> torch.Tensor:
    """A view, never a copy. torch warns of read-only memory; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(payload)
