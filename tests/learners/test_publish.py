import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import InfraError
from learners.publish import ALIGNMENT, pack_weights, unpack_weights


def tied_model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "embed": torch.nn.Embedding(7, 3),
            "norm": torch.nn.LayerNorm(3),
            "lm_head": torch.nn.Linear(3, 7, bias=False),
        }
    )
    model["lm_head"].weight = model["embed"].weight
    return model


def test_round_trip_keeps_every_bit_and_the_tied_head() -> None:
    state = tied_model().state_dict()
    update, payload = pack_weights(state, version=3, dtype="float32")
    received = dict(unpack_weights(update, payload))
    assert update.version == 3
    assert update.base_version is None
    assert list(received) == list(state)
    assert "lm_head.weight" in received
    assert all(torch.equal(received[name], state[name]) for name in state)


def test_weights_travel_in_the_dtype_of_the_rollout() -> None:
    state = {"a": torch.randn(3, 5), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    update, payload = pack_weights(state, version=1, dtype="bfloat16")
    received = dict(unpack_weights(update, payload))
    assert {tensor.dtype for tensor in received.values()} == {torch.bfloat16}
    assert torch.equal(received["a"], state["a"].bfloat16())
    assert received["scalar"].shape == ()
    assert received["empty"].shape == (0, 4)


def test_every_tensor_starts_on_a_cache_line() -> None:
    state = {name: torch.randn(size) for name, size in [("a", 1), ("b", 17), ("c", 33)]}
    update, payload = pack_weights(state, version=1, dtype="float32")
    assert [spec.offset for spec in update.manifest] == [0, 64, 192]
    assert payload.nbytes % ALIGNMENT == 0


def test_a_read_only_payload_is_viewed_without_copy_or_warning() -> None:
    update, payload = pack_weights({"a": torch.arange(4.0)}, version=1, dtype="float32")
    payload.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((_, tensor),) = unpack_weights(update, payload)
    assert tensor.data_ptr() == payload.ctypes.data
    assert tensor.tolist() == [0, 1, 2, 3]


def test_a_damaged_payload_is_refused() -> None:
    update, payload = pack_weights({"a": torch.randn(4)}, version=2, dtype="float32")
    payload[5] ^= 1
    with pytest.raises(InfraError, match="wrong checksum"):
        unpack_weights(update, payload)


def test_a_short_payload_and_a_delta_are_refused() -> None:
    update, payload = pack_weights({"a": torch.randn(4)}, version=2, dtype="float32")
    with pytest.raises(InfraError, match="needs 64 bytes"):
        unpack_weights(update, payload[:32])
    with pytest.raises(InfraError, match="only dense"):
        unpack_weights(replace(update, base_version=1), payload)


def test_integer_tensors_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="steps is"):
        pack_weights({"steps": torch.tensor(3)}, version=1, dtype="float32")


def test_equal_weights_have_equal_checksums() -> None:
    state = {"a": torch.randn(5)}
    first, _ = pack_weights(state, version=1, dtype="float32")
    second, buffer = pack_weights(state, version=2, dtype="float32")
    assert first.checksum == second.checksum
    assert buffer.dtype == np.uint8
