from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from core.records import TrainingSample
from learners.packing import plan_packs, shared_prompts
from tests.builders import make_rollout_id, make_sample, make_sampling


def sized(
    length: int, ordinal: int = 0, index: int = 0, prompt: int | None = None
) -> TrainingSample:
    zeros = length - 1 if prompt is None else prompt
    return make_sample(
        prompt_ids=(5,) * zeros,
        completion_ids=(9,) * (length - zeros),
        rollout_id=make_rollout_id(ordinal, index),
    )


def lengths_of(packs: list[list[TrainingSample]]) -> list[list[int]]:
    return [[len(sample.token_ids) for sample in pack] for pack in packs]


def test_a_sample_goes_where_it_leaves_the_least_room() -> None:
    samples = [sized(length, ordinal) for ordinal, length in enumerate([6, 5, 4, 1])]
    packs = plan_packs(samples, max_tokens=10, share_prefix=False)
    assert lengths_of(packs) == [[6, 4], [5, 1]]


def test_a_sample_beyond_the_budget_goes_alone() -> None:
    samples = [sized(30), sized(5, 1), sized(5, 2)]
    packs = plan_packs(samples, max_tokens=20, share_prefix=False)
    assert lengths_of(packs) == [[30], [5, 5]]


def test_samples_of_different_temperatures_do_not_meet() -> None:
    samples = [sized(4, ordinal) for ordinal in range(4)]
    for ordinal in (1, 3):
        sampling = make_sampling(temperature=1.0, seed=ordinal)
        samples[ordinal] = replace(samples[ordinal], sampling=sampling)
    packs = plan_packs(samples, max_tokens=20, share_prefix=True)
    assert [[one.rollout_id.ordinal for one in pack] for pack in packs] == [[0, 2], [1, 3]]


def test_a_shared_prompt_counts_once_and_keeps_a_group_together() -> None:
    samples = [sized(10, ordinal, index, prompt=8) for index in range(2) for ordinal in range(2)]
    packs = plan_packs(samples, max_tokens=12, share_prefix=True)
    assert [{sample.rollout_id.ordinal for sample in pack} for pack in packs] == [{0}, {1}]
    assert lengths_of(packs) == [[10, 10], [10, 10]]


def test_only_what_all_members_have_before_they_sampled_is_shared() -> None:
    samples = [
        make_sample(prompt_ids=(1, 2, 3), completion_ids=(7,), rollout_id=make_rollout_id(0, 0)),
        make_sample(prompt_ids=(1, 2), completion_ids=(3,), rollout_id=make_rollout_id(0, 1)),
        make_sample(prompt_ids=(1, 2, 3), completion_ids=(7,), rollout_id=make_rollout_id(1, 0)),
        make_sample(prompt_ids=(4,), completion_ids=(7,), rollout_id=make_rollout_id(2, 0)),
        make_sample(prompt_ids=(5,), completion_ids=(7,), rollout_id=make_rollout_id(2, 1)),
    ]
    assert shared_prompts(samples) == {0: 2}


@given(
    st.lists(st.tuples(st.integers(2, 40), st.integers(0, 4)), min_size=1, max_size=30),
    st.integers(1, 100),
    st.booleans(),
)
def test_every_sample_is_planned_once_and_no_pack_is_over_budget(
    shapes: list[tuple[int, int]], budget: int, share: bool
) -> None:
    samples = [
        sized(length, ordinal, index, prompt=min(length - 1, 7))
        for index, (length, ordinal) in enumerate(shapes)
    ]
    packs = plan_packs(samples, max_tokens=budget, share_prefix=share)
    planned = [sample.rollout_id for pack in packs for sample in pack]
    assert sorted(planned) == sorted(sample.rollout_id for sample in samples)
    shared = shared_prompts(samples) if share else {}
    for pack in packs:
        size = sum(len(sample.token_ids) for sample in pack)
        ordinals = [sample.rollout_id.ordinal for sample in pack]
        size -= sum(shared.get(n, 0) * (ordinals.count(n) - 1) for n in set(ordinals))
        assert len(pack) == 1 or size <= budget
