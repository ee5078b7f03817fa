from dataclasses import replace

import pytest
import torch

from core.errors import FidelityError
from core.records import SeenImage
from envs.chat import ChatFormat
from learners.attention import Segment
from learners.batch import build_micro_batch
from tests.builders import make_rollout_id, make_sample, make_sampling, make_seen_image, png_bytes
from tests.fakes.images import MemoryImageStore
from tests.tiny_model import build_tiny_policy


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return ChatFormat.load(build_tiny_policy(tmp_path_factory.mktemp("policy")))


def see(chat: ChatFormat, store: MemoryImageStore, color: tuple[int, int, int]) -> SeenImage:
    data = png_bytes(color)
    return chat.see(store.put(data), data)


def test_a_batch_lies_end_to_end_and_points_at_the_predicting_positions(chat: ChatFormat) -> None:
    samples = [
        make_sample(prompt_ids=(5, 6, 7), completion_ids=(8, 9), advantage=2.0, version=4),
        make_sample(prompt_ids=(5,), completion_ids=(10,), advantage=-1.0),
    ]
    batch = build_micro_batch(samples, chat=chat, images=MemoryImageStore())
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 5, 10]]
    assert batch.segments == (Segment(start=0, end=5), Segment(start=5, end=7, prefix=(0, 0)))
    assert batch.predicting.tolist() == [2, 3, 5]
    assert batch.sequences.tolist() == [0, 0, 1]
    assert batch.targets.tolist() == [8, 9, 10]
    assert batch.advantages.tolist() == [2, 2, -1]
    assert batch.policy_versions.tolist() == [4, 4, 0]
    assert batch.rollout_logprobs.tolist() == [-0.5] * 3
    assert not batch.after_image.any()
    assert batch.pixel_values is None
    assert (batch.temperature, batch.banned_ids) == (0.7, (3, 4))


def test_a_shared_prompt_stands_once_and_predicts_the_first_token_of_every_member(
    chat: ChatFormat,
) -> None:
    samples = [
        make_sample(prompt_ids=(5, 6), completion_ids=(8, 9), rollout_id=make_rollout_id(1, 0)),
        make_sample(prompt_ids=(7,), completion_ids=(8,), rollout_id=make_rollout_id(2, 0)),
        make_sample(prompt_ids=(5, 6), completion_ids=(10,), rollout_id=make_rollout_id(1, 1)),
    ]
    batch = build_micro_batch(samples, chat=chat, images=MemoryImageStore(), share_prefix=True)
    assert batch.input_ids.tolist() == [[5, 6, 8, 9, 7, 8, 10]]
    assert batch.segments == (
        Segment(start=0, end=2),
        Segment(start=2, end=4, prefix=(0, 2)),
        Segment(start=4, end=6),
        Segment(start=6, end=7, prefix=(0, 2)),
    )
    assert batch.predicting.tolist() == [1, 2, 4, 1]
    assert batch.targets.tolist() == [8, 9, 8, 10]


def test_an_image_seen_twice_is_there_once_and_named_at_every_place(chat: ChatFormat) -> None:
    store = MemoryImageStore()
    red, blue = see(chat, store, (255, 0, 0)), see(chat, store, (0, 0, 255))
    pads = (chat.image_id,) * red.num_tokens
    samples = [
        make_sample(prompt_ids=(5, *pads, 6, *pads), completion_ids=(8,), images=(blue, red)),
        make_sample(prompt_ids=(5, *pads), completion_ids=(8,), images=(red,)),
    ]
    batch = build_micro_batch(samples, chat=chat, images=store)
    expected = chat.vision_inputs([blue, red], store)
    assert batch.pixel_values is not None
    assert batch.image_grid_thw is not None
    assert torch.equal(batch.pixel_values, torch.from_numpy(expected.pixel_values))
    assert batch.image_grid_thw.tolist() == expected.grid_thw.tolist()
    assert batch.shown.tolist() == [0, 1, 1]
    assert batch.after_image.all()
    assert batch.is_image.sum() == 3 * red.num_tokens


def test_equal_pixels_of_another_shape_are_another_image(chat: ChatFormat) -> None:
    """Of one colour, wide and tall images have the same patches and so the same digest."""
    store = MemoryImageStore()
    wide, tall = (
        chat.see(store.put(data), data)
        for data in (png_bytes((9, 9, 9), size=size) for size in ((64, 32), (32, 64)))
    )
    assert wide.pixel_digest == tall.pixel_digest
    pads = (chat.image_id,) * wide.num_tokens
    sample = make_sample(prompt_ids=(5, *pads, 6, *pads), images=(wide, tall))
    batch = build_micro_batch([sample], chat=chat, images=store)
    assert batch.image_grid_thw is not None
    assert batch.image_grid_thw.tolist() == [list(wide.grid_thw), list(tall.grid_thw)]
    assert batch.shown.tolist() == [0, 1]


def test_only_tokens_behind_an_image_count_as_after_it(chat: ChatFormat) -> None:
    store = MemoryImageStore()
    red = see(chat, store, (255, 0, 0))
    pads = (chat.image_id,) * red.num_tokens
    sample = make_sample(prompt_ids=(5, 6, *pads), completion_ids=(8, 9), images=(red,))
    marked = replace(sample, loss_mask=(0, 1, *sample.loss_mask[2:]))
    batch = build_micro_batch([marked], chat=chat, images=store)
    assert batch.after_image.tolist() == [False, True, True]


def test_a_wrong_number_of_image_tokens_is_refused(chat: ChatFormat) -> None:
    sample = make_sample(images=(make_seen_image(num_tokens=4),))
    with pytest.raises(FidelityError, match=r"images of \[\] tokens, but they have \[4\]"):
        build_micro_batch([sample], chat=chat, images=MemoryImageStore())


def test_an_image_that_stands_in_the_place_of_another_is_refused(chat: ChatFormat) -> None:
    store = MemoryImageStore()
    small, large = (
        chat.see(store.put(data), data)
        for data in (png_bytes((255, 0, 0), size=(side, side)) for side in (32, 64))
    )
    pads = [(chat.image_id,) * image.num_tokens for image in (small, large)]
    sample = make_sample(prompt_ids=(5, *pads[0], 6, *pads[1]), images=(large, small))
    with pytest.raises(FidelityError, match=r"images of \[4, 16\] tokens, but they have \[16, 4\]"):
        build_micro_batch([sample], chat=chat, images=store)


def test_other_pixels_than_the_rollout_saw_are_refused(chat: ChatFormat) -> None:
    store = MemoryImageStore()
    other = replace(see(chat, store, (255, 0, 0)), pixel_digest="0" * 64)
    pads = (chat.image_id,) * other.num_tokens
    sample = make_sample(prompt_ids=(5, *pads), images=(other,))
    with pytest.raises(FidelityError, match="other pixel values"):
        build_micro_batch([sample], chat=chat, images=store)


def test_a_sampled_banned_token_is_refused(chat: ChatFormat) -> None:
    sample = make_sample(completion_ids=(8, 3))
    with pytest.raises(FidelityError, match="a banned token"):
        build_micro_batch([sample], chat=chat, images=MemoryImageStore())


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [((1, 0, 0, 1), "first token has no context"), ((0, 0, 0, 0), "sampled none of its tokens")],
)
def test_a_sequence_without_something_to_predict_is_refused(
    chat: ChatFormat, mask: tuple[int, ...], sentence: str
) -> None:
    sample = replace(make_sample(prompt_ids=(5, 6), completion_ids=(8, 9)), loss_mask=mask)
    with pytest.raises(FidelityError, match=sentence):
        build_micro_batch([sample], chat=chat, images=MemoryImageStore())


def test_samples_of_different_temperatures_are_not_mixed(chat: ChatFormat) -> None:
    samples = [make_sample(), make_sample(sampling=make_sampling(temperature=1.0))]
    with pytest.raises(FidelityError, match="drawn in 2 ways"):
        build_micro_batch(samples, chat=chat, images=MemoryImageStore())


def test_samples_may_differ_in_their_seed(chat: ChatFormat) -> None:
    samples = [make_sample(), make_sample(sampling=make_sampling(seed=7))]
    assert build_micro_batch(samples, chat=chat, images=MemoryImageStore()).temperature == 0.7
