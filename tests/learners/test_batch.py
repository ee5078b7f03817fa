from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FidelityError
from core.records import SeenImage, TrainingSample
from envs.chat import ChatFormat
from learners.batch import build_micro_batch, plan_micro_batches
from tests.builders import make_rollout_id, make_sample, make_sampling, make_seen_image, png_bytes
from tests.fakes.images import MemoryImageStore
from tests.tiny_model import build_tiny_policy


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return ChatFormat.load(build_tiny_policy(tmp_path_factory.mktemp("policy")))


def see(chat: ChatFormat, store: MemoryImageStore, color: tuple[int, int, int]) -> SeenImage:
    data = png_bytes(color)
    return chat.see(store.put(data), data)


def sized(length: int, index: int = 0) -> TrainingSample:
    return make_sample(
        prompt_ids=(5,) * (length - 1),
        completion_ids=(9,),
        rollout_id=make_rollout_id(index=index),
    )


def test_samples_are_grouped_longest_first_under_the_budget() -> None:
    samples = [sized(length, index) for index, length in enumerate([3, 10, 4, 9])]
    plans = plan_micro_batches(samples, max_tokens=20)
    assert [[len(s.token_ids) for s in plan] for plan in plans] == [[10, 9], [4, 3]]


def test_a_sample_beyond_the_budget_goes_alone() -> None:
    plans = plan_micro_batches([sized(30), sized(5, 1), sized(5, 2)], max_tokens=20)
    assert [len(plan) for plan in plans] == [1, 2]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 100))
def test_every_sample_is_planned_once_and_no_plan_is_over_budget(
    lengths: list[int], budget: int
) -> None:
    samples = [sized(length, index) for index, length in enumerate(lengths)]
    plans = plan_micro_batches(samples, max_tokens=budget)
    planned = [sample.rollout_id for plan in plans for sample in plan]
    assert sorted(planned) == [sample.rollout_id for sample in samples]
    for plan in plans:
        assert len(plan) == 1 or len(plan) * max(len(s.token_ids) for s in plan) <= budget


def test_a_batch_points_at_the_predicting_positions(chat: ChatFormat) -> None:
    samples = [
        make_sample(prompt_ids=(5, 6, 7), completion_ids=(8, 9), advantage=2.0, version=4),
        make_sample(prompt_ids=(5,), completion_ids=(10,), advantage=-1.0),
    ]
    batch = build_micro_batch(samples, chat=chat, images=MemoryImageStore())
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [5, 10, *[chat.stop_id] * 3]]
    assert batch.attention_mask.tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.columns.tolist() == [2, 3, 0]
    assert batch.targets.tolist() == [8, 9, 10]
    assert batch.advantages.tolist() == [2, 2, -1]
    assert batch.policy_versions.tolist() == [4, 4, 0]
    assert batch.rollout_logprobs.tolist() == [-0.5] * 3
    assert not batch.after_image.any()
    assert batch.pixel_values is None
    assert (batch.temperature, batch.banned_ids) == (0.7, (3, 4))


def test_images_keep_the_order_of_their_placeholders(chat: ChatFormat) -> None:
    store = MemoryImageStore()
    red, blue = see(chat, store, (255, 0, 0)), see(chat, store, (0, 0, 255))
    pads = (chat.image_id,) * red.num_tokens
    samples = [
        make_sample(prompt_ids=(5, *pads, 6, *pads), completion_ids=(8,), images=(blue, red)),
        make_sample(prompt_ids=(5, *pads), completion_ids=(8,), images=(red,)),
    ]
    batch = build_micro_batch(samples, chat=chat, images=store)
    expected = chat.vision_inputs([blue, red, red], store)
    assert batch.pixel_values is not None
    assert batch.image_grid_thw is not None
    assert torch.equal(batch.pixel_values, torch.from_numpy(expected.pixel_values))
    assert batch.image_grid_thw.tolist() == expected.grid_thw.tolist()
    assert batch.after_image.all()
    assert batch.mm_token_type_ids.sum() == 3 * red.num_tokens


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
    with pytest.raises(FidelityError, match="0 image tokens, but its images have 4"):
        build_micro_batch([sample], chat=chat, images=MemoryImageStore())


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


def test_samples_of_different_temperatures_are_not_mixed(chat: ChatFormat) -> None:
    samples = [make_sample(), make_sample(sampling=make_sampling(temperature=1.0))]
    with pytest.raises(FidelityError, match="drawn in 2 ways"):
        build_micro_batch(samples, chat=chat, images=MemoryImageStore())


def test_samples_may_differ_in_their_seed(chat: ChatFormat) -> None:
    samples = [make_sample(), make_sample(sampling=make_sampling(seed=7))]
    assert build_micro_batch(samples, chat=chat, images=MemoryImageStore()).temperature == 0.7
