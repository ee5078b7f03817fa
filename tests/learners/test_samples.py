from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FidelityError
from core.records import Trajectory
from learners.samples import build_sample
from tests.builders import (
    IMAGE_PAD,
    make_completion,
    make_sampling,
    make_seen_image,
    make_trajectory,
)


def with_turn(trajectory: Trajectory, number: int, **changes: object) -> Trajectory:
    turns = list(trajectory.turns)
    turns[number] = replace(turns[number], **changes)
    return replace(trajectory, turns=tuple(turns))


def test_the_last_turn_is_the_whole_sequence_and_every_completion_is_marked() -> None:
    sample = build_sample(make_trajectory(completions=[[10, 11, 2], [12, 2]]), advantage=2.0)
    # prompt 1 5 6 | completion 10 11 2 | observation 7 8 | completion 12 2
    assert sample.token_ids == (1, 5, 6, 10, 11, 2, 7, 8, 12, 2)
    assert sample.loss_mask == (0, 0, 0, 1, 1, 1, 0, 0, 1, 1)
    assert sample.advantages == (0, 0, 0, 2, 2, 2, 0, 0, 2, 2)
    assert sample.logprobs == (0, 0, 0, -0.5, -0.5, -0.5, 0, 0, -0.5, -0.5)
    assert sample.policy_versions == (-1, -1, -1, 0, 0, 0, -1, -1, 0, 0)


def test_image_tokens_are_kept_and_never_trained_on() -> None:
    image = make_seen_image("a", num_tokens=4)
    sample = build_sample(make_trajectory(images=[image]), advantage=1.0)
    assert sample.images == (image,)
    assert sample.token_ids.count(IMAGE_PAD) == 4
    pairs = zip(sample.token_ids, sample.loss_mask, strict=True)
    assert all(mask == 0 for token, mask in pairs if token == IMAGE_PAD)


def test_tokens_of_one_turn_may_have_several_versions() -> None:
    completion = make_completion([10, 11, 2], policy_versions=((3, 0, 1), (4, 1, 3)))
    trajectory = with_turn(make_trajectory(completions=[[10, 11, 2]]), 0, completion=completion)
    assert build_sample(trajectory, advantage=1.0).policy_versions == (-1, -1, -1, 3, 4, 4)


def test_a_retokenised_prefix_is_refused() -> None:
    trajectory = make_trajectory()
    changed = list(trajectory.turns[1].prompt_ids)
    changed[4] += 1
    with pytest.raises(FidelityError, match="turn=0: token 4"):
        build_sample(with_turn(trajectory, 1, prompt_ids=tuple(changed)), advantage=1.0)


def test_a_turn_that_outgrows_the_last_one_is_refused() -> None:
    trajectory = make_trajectory()
    first = trajectory.turns[0]
    cut = with_turn(trajectory, 1, prompt_ids=first.prompt_ids, completion=make_completion([10]))
    longer = with_turn(cut, 0, completion=make_completion([10, 11, 2]))
    size = len(first.prompt_ids) + 1
    with pytest.raises(FidelityError, match=f"turn=0: token {size} "):
        build_sample(longer, advantage=1.0)


def test_a_swapped_image_is_refused() -> None:
    trajectory = make_trajectory(
        completions=[[10, 2], [11, 2], [12, 2]], images=[make_seen_image("a")]
    )
    swapped = with_turn(trajectory, 1, images=(make_seen_image("b"),))
    with pytest.raises(FidelityError, match="turn=1: its images"):
        build_sample(swapped, advantage=1.0)


def test_turns_sampled_at_different_temperatures_are_refused() -> None:
    other = make_completion([10, 11, 2], sampling=make_sampling(temperature=1.0))
    with pytest.raises(FidelityError, match="sampled in another way"):
        build_sample(with_turn(make_trajectory(), 0, completion=other), advantage=1.0)


def test_turns_may_differ_in_their_seed() -> None:
    other = make_completion([10, 11, 2], sampling=make_sampling(seed=9))
    build_sample(with_turn(make_trajectory(), 0, completion=other), advantage=1.0)


@pytest.mark.parametrize(
    "spans",
    [((0, 0, 2),), ((0, 1, 3),), ((0, 0, 1), (1, 2, 3)), ((0, 0, 2), (1, 3, 4)), ()],
)
def test_version_spans_must_cover_the_completion(spans: tuple[tuple[int, int, int], ...]) -> None:
    broken = make_completion([10, 11, 2], policy_versions=spans)
    with pytest.raises(FidelityError, match="version spans"):
        build_sample(with_turn(make_trajectory(), 0, completion=broken), advantage=1.0)


def test_an_episode_without_a_turn_is_refused() -> None:
    with pytest.raises(FidelityError, match="no turn"):
        build_sample(replace(make_trajectory(), turns=()), advantage=1.0)


@given(st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_marked_tokens_are_the_sampled_ones(completions: list[list[int]]) -> None:
    sample = build_sample(make_trajectory(completions=completions), advantage=1.0)
    marked = [t for t, mask in zip(sample.token_ids, sample.loss_mask, strict=True) if mask]
    assert marked == [token for completion in completions for token in completion]
