"""Both ends of the wire: what is published is what is received, bit for bit, dense or delta."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InfraError
from core.records import WeightUpdate
from learners import delta
from learners.flat import ALIGNMENT, CHUNK_BYTES, DTYPES
from learners.publish import WeightPublisher
from learners.receive import WeightReceiver

State = dict[str, torch.Tensor]


def publish(
    state: State, *, version: int = 1, dtype: str = "float32"
) -> tuple[WeightUpdate, tuple[Any, ...]]:
    return WeightPublisher(dtype=dtype).publish(state, version=version)


def receive(update: WeightUpdate, payload: Sequence[np.ndarray]) -> State:
    return dict(WeightReceiver().receive(update, payload))


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist()


def frozen(payload: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Read-only, as arrays of Ray's object store are."""
    for part in payload:
        part.flags.writeable = False
    return list(payload)


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


def test_dense_keeps_every_bit_and_the_tied_head() -> None:
    state = tied_model().state_dict()
    update, payload = publish(state, version=3)
    received = receive(update, payload)
    assert (update.version, update.base_version) == (3, None)
    assert list(received) == list(state)
    assert "lm_head.weight" in received
    assert all(torch.equal(received[name], state[name]) for name in state)


def test_weights_travel_in_the_dtype_of_the_rollout() -> None:
    state = {"a": torch.randn(3, 5), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    received = receive(*publish(state, dtype="bfloat16"))
    assert {tensor.dtype for tensor in received.values()} == {torch.bfloat16}
    assert torch.equal(received["a"], state["a"].bfloat16())
    assert received["scalar"].shape == ()
    assert received["empty"].shape == (0, 4)


def test_every_tensor_starts_on_a_cache_line_inside_one_chunk() -> None:
    sizes = {"a": 1, "b": 17, "c": CHUNK_BYTES // 4, "d": 33}
    state = {name: torch.randn(size) for name, size in sizes.items()}
    update, payload = publish(state)
    assert [spec.offset for spec in update.manifest] == [0, 64, 192, 192 + CHUNK_BYTES]
    assert [(c.start, c.stop) for c in update.chunks] == [
        (0, 192),
        (192, 192 + CHUNK_BYTES),
        (192 + CHUNK_BYTES, 384 + CHUNK_BYTES),
    ]
    assert [part.size for part in payload] == [3 * ALIGNMENT, CHUNK_BYTES, 3 * ALIGNMENT]
    received = receive(update, payload)
    assert all(torch.equal(received[name], state[name]) for name in state)


def test_read_only_arrays_are_viewed_without_copy_or_warning() -> None:
    update, payload = publish({"a": torch.arange(4.0)})
    (part,) = frozen(payload)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = receive(update, [part])["a"]
    assert tensor.data_ptr() == part.ctypes.data
    assert tensor.tolist() == [0, 1, 2, 3]


def test_arrays_that_may_change_later_are_copied() -> None:
    update, payload = publish({"a": torch.arange(4.0)})
    tensor = receive(update, payload)["a"]
    payload[0][:] = 0
    assert tensor.tolist() == [0, 1, 2, 3]


def test_buffers_are_used_again_from_one_update_to_the_next() -> None:
    stored: list[int] = []

    def store(part: np.ndarray) -> np.ndarray:
        stored.append(part.ctypes.data)
        return part.copy()

    publisher = WeightPublisher(dtype="float32", store=store)
    receiver = WeightReceiver()
    seen = []
    for version in (1, 2):
        state = {"a": torch.full((4,), float(version))}
        ((_, tensor),) = receiver.receive(*publisher.publish(state, version=version))
        seen.append(tensor.data_ptr())
    assert stored[0] == stored[1]
    assert seen[0] == seen[1]


def test_a_large_tensor_that_lies_ready_is_sent_without_a_copy() -> None:
    stored: list[int] = []
    publisher = WeightPublisher(
        dtype="float32", store=lambda part: stored.append(part.ctypes.data) or part.copy()
    )
    large, small = torch.randn(CHUNK_BYTES // 4), torch.randn(16)
    state = {"before": small, "large": large, "after": small}
    update, payload = publisher.publish(state, version=1)
    assert large.data_ptr() in stored
    received = receive(update, payload)
    assert all(torch.equal(received[name], state[name]) for name in state)


def test_a_payload_of_another_form_is_refused() -> None:
    update, payload = publish({"a": torch.randn(4)})
    with pytest.raises(InfraError, match="needs 64 bytes"):
        receive(update, [payload[0][:32]])
    with pytest.raises(InfraError, match="needs 1 arrays, got 0"):
        receive(update, [])
    with pytest.raises(InfraError, match="not flat bytes"):
        receive(update, [payload[0].view(np.int16)])


def test_integer_tensors_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="steps is"):
        publish({"steps": torch.tensor(3)})


# -- deltas -------------------------------------------------------------------------------------


@given(
    old=st.lists(st.integers(0, 2**16 - 1), max_size=60),
    new=st.lists(st.integers(0, 2**16 - 1), max_size=60),
    width=st.sampled_from([np.uint16, np.uint32]),
)
def test_a_difference_of_any_bits_comes_back(old: list[int], new: list[int], width: Any) -> None:
    size = min(len(old), len(new))
    scale = 1 if width is np.uint16 else 65521
    before = np.array(old[:size], np.uint64).astype(width) * width(scale)
    after = np.array(new[:size], np.uint64).astype(width) * width(scale)
    changed = np.flatnonzero(before != after)
    encoded = delta.encode(changed, after[changed] - before[changed])
    delta.apply(encoded, before)
    assert before.tolist() == after.tolist()


@given(
    size=st.integers(0, 40),
    where=st.sets(st.integers(0, 39)),
    width=st.sampled_from([np.uint16, np.uint32]),
    start=st.integers(0, 3),
)
def test_changed_words_are_found_in_any_place(
    size: int, where: set[int], width: Any, start: int
) -> None:
    new, old = np.zeros(44, width)[start : start + size], np.zeros(44, width)[:size]
    chosen = sorted(index for index in where if index < size)
    new[chosen] = 256
    assert delta.changed(new, old).tolist() == chosen


def test_a_small_step_costs_a_small_part_of_the_dense_bytes() -> None:
    generator = np.random.default_rng(0)
    positions = np.flatnonzero(generator.random(1_000_000) < 0.01)
    steps = generator.choice(np.array([1, 2**16 - 1], np.uint16), positions.size)
    assert delta.encode(positions, steps).size < 0.01 * 2_000_000


@given(st.binary(max_size=64), st.integers(0, 40))
def test_nonsense_is_refused_and_changes_nothing(data: bytes, size: int) -> None:
    words = np.arange(size, dtype=np.uint16)
    try:
        delta.apply(np.frombuffer(data, np.uint8), words)
    except ValueError:
        assert words.tolist() == list(range(size))


def test_a_delta_that_names_words_beyond_the_end_is_refused() -> None:
    encoded = delta.encode(np.array([1, 9]), np.array([1, 1], np.uint16))
    words = np.zeros(9, np.uint16)
    with pytest.raises(ValueError, match="word 9 of 9"):
        delta.apply(encoded, words)
    assert not words.any()


@pytest.mark.parametrize("spoil", [lambda one: one[:-1], lambda one: np.append(one, one[-1:])])
def test_a_delta_that_ends_too_soon_or_too_late_is_refused(spoil: Any) -> None:
    encoded = delta.encode(np.array([1, 5]), np.array([1, 1], np.uint16))
    words = np.zeros(9, np.uint16)
    with pytest.raises(ValueError, match="does not end where it should"):
        delta.apply(spoil(encoded), words)
    assert not words.any()


def steps(seed: int, *, count: int, share: float, dtype: str) -> list[State]:
    """Versions of two tensors, each of which changes some weights of the one before; any bits."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        "a": torch.randn(31, 7, generator=generator).to(DTYPES[dtype]),
        "b": torch.randn(5, generator=generator).to(DTYPES[dtype]),
    }
    versions = [state]
    for _ in range(count - 1):
        state = {name: tensor.clone() for name, tensor in state.items()}
        for tensor in state.values():
            raw = tensor.view(torch.int16)
            chosen = torch.rand(raw.shape, generator=generator) < share
            noise = torch.randint(-(2**15), 2**15, raw.shape, generator=generator).short()
            raw[chosen] = noise[chosen]
        versions.append(state)
    return versions


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.02, 1.0]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    mode=st.sampled_from(["auto", "dense", "delta"]),
    snapshot_every=st.integers(1, 4),
    joins_at=st.integers(0, 5),
    read_only=st.booleans(),
)
def test_every_mode_ends_with_the_same_bits_for_early_and_late_joiners(
    seed: int,
    share: float,
    dtype: str,
    mode: Any,
    snapshot_every: int,
    joins_at: int,
    read_only: bool,
) -> None:
    publisher = WeightPublisher(dtype=dtype, mode=mode, snapshot_every=snapshot_every)
    early, late = WeightReceiver(), WeightReceiver()
    chain: list[tuple[WeightUpdate, Sequence[np.ndarray]]] = []
    for number, state in enumerate(steps(seed, count=6, share=share, dtype=dtype)):
        update, payload = publisher.publish(state, version=number)
        arrays = frozen(payload) if read_only else payload
        chain = [*(chain if update.base_version is not None else ()), (update, arrays)]
        received = [dict(early.receive(update, arrays))]
        if number == joins_at:
            received.append(dict(late.receive_chain(*zip(*chain, strict=True))))
        elif number > joins_at:
            received.append(dict(late.receive(update, arrays)))
        for weights in received:
            assert {n: bits(t) for n, t in weights.items()} == {
                n: bits(t) for n, t in state.items()
            }
    assert len(chain) <= snapshot_every


@pytest.mark.parametrize(("share", "is_delta"), [(0.01, True), (0.5, False)])
def test_auto_goes_by_how_many_weights_changed(share: float, is_delta: bool) -> None:
    publisher = WeightPublisher(dtype="bfloat16", mode="auto", snapshot_every=9)
    first, second = steps(3, count=2, share=share, dtype="bfloat16")
    publisher.publish(first, version=1)
    update, _ = publisher.publish(second, version=2)
    assert (update.base_version == 1) is is_delta


@settings(deadline=None, max_examples=60)
@given(data=st.data(), mode=st.sampled_from(["dense", "delta"]))
def test_damage_to_any_byte_is_noticed_and_a_snapshot_mends_it(
    data: st.DataObject, mode: Any
) -> None:
    publisher = WeightPublisher(dtype="bfloat16", mode=mode, snapshot_every=9)
    receiver = WeightReceiver()
    first, second = steps(5, count=2, share=0.05, dtype="bfloat16")
    snapshot = publisher.publish(first, version=1)
    receiver.receive(*snapshot)
    update, payload = publisher.publish(second, version=2)
    part = data.draw(st.integers(0, len(payload) - 1))
    spoiled = [one.copy() for one in payload]
    spoiled[part][data.draw(st.integers(0, spoiled[part].size - 1))] ^= data.draw(
        st.integers(1, 255)
    )
    with pytest.raises(InfraError, match="checksum"):
        receiver.receive(update, spoiled)
    if mode == "delta":
        with pytest.raises(InfraError, match="builds on version 1, but here is none"):
            receiver.receive(update, payload)
    mended = dict(receiver.receive_chain([snapshot[0], update], [snapshot[1], payload])
                  if mode == "delta" else receiver.receive(update, payload))  # fmt: skip
    assert {n: bits(t) for n, t in mended.items()} == {n: bits(t) for n, t in second.items()}


def test_after_an_update_that_could_not_be_stored_the_next_one_stands_alone() -> None:
    """The buffer was brought up to date, but nobody has what it was brought up to."""
    first, second, third = steps(11, count=3, share=0.5, dtype="bfloat16")
    full = [False]

    def store(part: np.ndarray) -> np.ndarray:
        if full[0]:
            raise MemoryError("the object store is full")
        return part.copy()

    publisher = WeightPublisher(dtype="bfloat16", mode="delta", snapshot_every=9, store=store)
    receiver = WeightReceiver()
    receiver.receive(*publisher.publish(first, version=1))
    full[0] = True
    with pytest.raises(MemoryError):
        publisher.publish(second, version=2)
    full[0] = False
    update, payload = publisher.publish(third, version=2)
    assert update.base_version is None
    received = dict(receiver.receive(update, payload))
    assert {n: bits(t) for n, t in received.items()} == {n: bits(t) for n, t in third.items()}


def test_a_forgetful_publisher_sends_everything_next() -> None:
    first, second = steps(13, count=2, share=0.01, dtype="bfloat16")
    publisher = WeightPublisher(dtype="bfloat16", mode="delta", snapshot_every=9)
    publisher.publish(first, version=1)
    publisher.forget()
    assert publisher.publish(second, version=2)[0].base_version is None


def test_a_delta_of_another_model_is_refused() -> None:
    first, second = steps(17, count=2, share=0.01, dtype="bfloat16")
    receiver = WeightReceiver()
    receiver.receive(*publish({"other": first["a"], "b": first["b"]}, dtype="bfloat16"))
    publisher = WeightPublisher(dtype="bfloat16", mode="delta", snapshot_every=9)
    publisher.publish(first, version=1)
    with pytest.raises(InfraError, match="of another model than its base"):
        receiver.receive(*publisher.publish(second, version=2))


def test_a_version_made_again_is_not_mistaken_for_the_base() -> None:
    """A learner that was restored makes version 1 once more, with other bits."""
    first, other, next_ = steps(7, count=3, share=0.5, dtype="bfloat16")
    receiver = WeightReceiver()
    receiver.receive(*publish(first, dtype="bfloat16"))
    publisher = WeightPublisher(dtype="bfloat16", mode="delta", snapshot_every=9)
    publisher.publish(other, version=1)
    with pytest.raises(InfraError, match="wrong checksum"):
        receiver.receive(*publisher.publish(next_, version=2))
