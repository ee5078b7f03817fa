"""vLLM on a tiny random Qwen3-VL against plain transformers: equal tokens, pixels and numbers."""

import asyncio
import dataclasses
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from actors.runtime_env import worker_env
from core.config import Config, build_config
from core.errors import InfraError
from core.protocols import Generated
from core.records import FinishReason
from learners import lora
from learners.publish import WeightPublisher
from tests.fakes.images import MemoryImageStore
from tests.hf_policy import HfPolicy
from tests.tiny_model import build_tiny_policy
from tests.vllm_turns import (
    ASSISTANT,
    IMAGE,
    TASK,
    TOLERANCE,
    difference,
    head,
    make_png,
    make_request,
    pack,
)

if TYPE_CHECKING:
    from actors.vllm_engine import VllmEngine

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def config(folder: Path) -> Iterator[Config]:
    """A tiny engine, and the environment that a Ray worker would have been started with."""
    config = build_config(
        {
            "policy": {"path": str(folder)},
            "render": {"path": str(folder)},
            "rollout": {"max_context": 1024, "max_turns": 4, "kv_cache_gib": 0.05},
        }
    )
    before = dict(os.environ)
    os.environ.update(worker_env(config))
    yield config
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def images() -> MemoryImageStore:
    return MemoryImageStore()


@pytest.fixture(scope="module")
def started(config: Config, images: MemoryImageStore, folder: Path) -> "Iterator[VllmEngine]":
    from actors.vllm_engine import VllmEngine

    engine = VllmEngine(config, images=images, stop_ids=[HfPolicy(folder).stop_id])
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture
def oracle(folder: Path) -> HfPolicy:
    """The weights that the engine has when a test begins."""
    return HfPolicy(folder)


@pytest.fixture
async def engine(started: "VllmEngine", folder: Path) -> "AsyncIterator[VllmEngine]":
    """The one engine of this file; a test that pushed weights leaves none of them behind."""
    version = started.policy_version
    yield started
    if started.policy_version != version:
        await push(started, HfPolicy(folder), version=started.policy_version + 1)


async def push(engine: "VllmEngine", oracle: HfPolicy, *, version: int) -> None:
    update, payload = pack(oracle.model.state_dict(), version=version)
    await engine.apply_weights([update], [payload])


async def test_turns_with_images_keep_their_tokens_and_agree_with_transformers(
    engine: "VllmEngine", oracle: HfPolicy, images: MemoryImageStore
) -> None:
    pngs = [make_png(1), make_png(2, size=50)]
    seen = [oracle.see(images.put(png), png) for png in pngs]
    assert [image.num_tokens for image in seen] == [4, 9], "the second one is resized"

    first_ids = oracle.encode(f"{TASK}")
    first = await engine.generate(make_request(oracle, first_ids, seed=5))
    assert first.prompt_ids == first_ids

    turns, context, shown = [first], first_ids, 0
    for png_count in (1, 2):
        observation = f"\n<|im_start|>user\nIMG_00{png_count}: {IMAGE}{ASSISTANT}"
        context = (*context, *turns[-1].completion.token_ids, *oracle.encode(observation))
        shown = png_count
        request = make_request(oracle, context, seen[:shown], seed=5 + shown)
        turns.append(await engine.generate(request))
        assert turns[-1].prompt_ids == oracle.expand(context, seen[:shown])
    for earlier, later in itertools.pairwise(turns):
        before = earlier.prompt_ids + earlier.completion.token_ids
        assert later.prompt_ids[: len(before)] == before

    for turn, count in zip(turns, (0, 1, 2), strict=True):
        assert turn.completion.token_ids
        assert difference(oracle, turn, pngs[:count]).max() < TOLERANCE
    for turn, count in zip(turns[1:], (1, 2), strict=True):
        assert difference(oracle, turn, pngs[:count], blank=True).mean() > 0.02
    assert (await engine.stats()).num_cached_tokens > 0, "later turns reuse the earlier ones' KV"


async def test_banned_ids_are_never_sampled_and_leave_the_logprobs(
    engine: "VllmEngine", oracle: HfPolicy
) -> None:
    context = oracle.encode(TASK)
    options: dict[str, Any] = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 200}
    requests = [make_request(oracle, context, seed=n, index=n, **options) for n in range(16)]
    free = [
        dataclasses.replace(one, sampling=dataclasses.replace(one.sampling, banned_ids=()))
        for one in requests
    ]
    banned_turns = await asyncio.gather(*map(engine.generate, requests))
    free_turns = await asyncio.gather(*map(engine.generate, free))

    banned = set(oracle.banned_ids)
    assert any(banned & set(turn.completion.token_ids) for turn in free_turns), "bans are needed"
    assert not any(banned & set(turn.completion.token_ids) for turn in banned_turns)
    for turn in [*banned_turns, *free_turns]:
        assert difference(oracle, turn).max() < TOLERANCE


async def test_a_turn_ends_with_the_stop_token_or_at_its_limit(
    engine: "VllmEngine", oracle: HfPolicy
) -> None:
    options: dict[str, Any] = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 200}
    requests = [
        make_request(oracle, oracle.encode(TASK), seed=n, index=n, **options) for n in range(32)
    ]
    completions = [one.completion for one in await asyncio.gather(*map(engine.generate, requests))]

    stopped = [one for one in completions if one.finish_reason is FinishReason.STOP]
    cut = [one for one in completions if one.finish_reason is FinishReason.LENGTH]
    assert stopped
    assert len(stopped) + len(cut) == 32
    assert all(one.token_ids.index(oracle.stop_id) == len(one.token_ids) - 1 for one in stopped)
    assert all(len(one.token_ids) == 200 and oracle.stop_id not in one.token_ids for one in cut)


async def test_equal_seeds_repeat_and_other_seeds_differ(
    engine: "VllmEngine", oracle: HfPolicy
) -> None:
    context = oracle.encode(TASK)
    seeds = [0, 1, 2, 3, 2**63 - 1, 0]
    turns = await asyncio.gather(
        *(
            engine.generate(make_request(oracle, context, seed=s, index=n))
            for n, s in enumerate(seeds)
        )
    )
    samples = [turn.completion.token_ids for turn in turns]
    assert samples[0] == samples[-1]
    assert len(set(samples)) == 5


async def test_new_weights_reach_running_requests_and_every_token_names_its_version(
    engine: "VllmEngine", oracle: HfPolicy, folder: Path, images: MemoryImageStore
) -> None:
    png = make_png(7)
    seen = [oracle.see(images.put(png), png)]
    context = oracle.encode(f"<|im_start|>user\nIMG_001: {IMAGE}{ASSISTANT}")
    old = engine.policy_version
    before = await engine.generate(make_request(oracle, context, seen, seed=3))
    assert difference(oracle, before, [png]).max() < TOLERANCE
    assert before.completion.policy_versions == ((old, 0, len(before.completion.token_ids)),)
    # Made beforehand: the engine may go through all that runs while a busy machine makes them.
    old_oracle = HfPolicy(folder)
    oracle.perturb(scale=0.02, seed=1)
    update, payload = pack(oracle.model.state_dict(), version=old + 1)

    running = [
        asyncio.create_task(
            engine.generate(
                make_request(
                    oracle, context, seen, seed=n, index=n, temperature=1.5, max_tokens=600
                )
            )
        )
        for n in range(4)
    ]
    for _ in range(6000):
        if (await engine.stats()).num_running == 4:
            break
        await asyncio.sleep(0.01)
    # It is stepped together with the four, so when it is done each of them has tokens.
    await engine.generate(make_request(oracle, oracle.encode(TASK), max_tokens=5))
    await engine.apply_weights([update], [payload])
    assert engine.policy_version == old + 1

    after = await engine.generate(make_request(oracle, context, seen, seed=3))
    assert difference(oracle, after, [png]).max() < TOLERANCE
    assert difference(oracle, before, [png]).max() > 0.05, "the push must have changed something"
    assert after.completion.policy_versions == ((old + 1, 0, len(after.completion.token_ids)),)
    for turn in await asyncio.gather(*running):
        (first, zero, middle), (second, middle_too, end) = turn.completion.policy_versions
        assert (first, second, zero) == (old, old + 1, 0)
        assert 0 < middle == middle_too < end == len(turn.completion.token_ids)
        old_part = Generated(prompt_ids=turn.prompt_ids, completion=head(turn.completion, middle))
        assert difference(old_oracle, old_part, [png]).max() < TOLERANCE


async def test_dense_and_delta_updates_in_flight_give_the_same_numbers(
    engine: "VllmEngine", folder: Path, oracle: HfPolicy
) -> None:
    """Several updates under running requests; each time the engine has the learner's weights."""
    context, alone = oracle.encode(TASK), oracle.encode(f"<|im_start|>user\nAlone.{ASSISTANT}")
    logprobs: dict[str, tuple[float, ...]] = {}
    for mode in ("dense", "delta"):
        oracle = HfPolicy(folder)
        publisher = WeightPublisher(dtype="float32", mode=mode, snapshot_every=9)
        busy = [
            asyncio.create_task(
                engine.generate(
                    make_request(oracle, context, seed=n, index=n, temperature=1.5, max_tokens=600)
                )
            )
            for n in range(2)
        ]
        for number in range(4):
            oracle.perturb(scale=0.01, seed=number)
            version = engine.policy_version + 1
            update, payload = publisher.publish(oracle.model.state_dict(), version=version)
            assert (update.base_version is None) == (mode == "dense" or number == 0)
            await engine.apply_weights([update], [payload])
            turn = await engine.generate(make_request(oracle, context, seed=7))
            assert difference(oracle, turn).max() < TOLERANCE
        await asyncio.gather(*busy)
        # The last bit also depends on who else is in the batch, and in the cache.
        turn = await engine.generate(make_request(oracle, alone, seed=7))
        logprobs[mode] = turn.completion.logprobs
    assert logprobs["dense"] == logprobs["delta"], "to the last bit"


async def test_adapters_are_added_to_the_weights_that_the_engine_started_with(
    engine: "VllmEngine", folder: Path
) -> None:
    """Three updates of the factors alone, the later ones as deltas, each with the version before
    undone."""
    first = HfPolicy(folder).model.state_dict()
    publisher = WeightPublisher(dtype="float32", mode="delta", snapshot_every=9)
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        factors = {}
        for name, weight in first.items():
            if "language_model" in name and name.endswith("_proj.weight"):
                rows, columns = weight.shape
                module = name.removesuffix(".weight")
                factors[module + lora.A] = 0.1 * torch.randn(4, columns, generator=generator)
                factors[module + lora.B] = 0.1 * torch.randn(rows, 4, generator=generator)
        oracle = HfPolicy(folder)
        oracle.model.load_state_dict(dict(lora.merged(first, factors, scale=0.5)))
        update, payload = publisher.publish(factors, version=engine.policy_version + 1)
        await engine.apply_weights([dataclasses.replace(update, lora_scale=0.5)], [payload])
        turn = await engine.generate(make_request(oracle, oracle.encode(TASK)))
        assert difference(oracle, turn).max() < TOLERANCE
    assert difference(HfPolicy(folder), turn).max() > 100 * TOLERANCE


async def test_an_update_that_does_not_fit_is_refused_and_changes_nothing(
    engine: "VllmEngine", oracle: HfPolicy
) -> None:
    version = engine.policy_version
    update, payload = pack(oracle.model.state_dict(), version=version + 1)
    spoiled = payload[0].copy()
    spoiled[1000] ^= 1

    with pytest.raises(InfraError, match="checksum"):
        await engine.apply_weights([update], [[spoiled, *payload[1:]]])
    with pytest.raises(InfraError, match="bytes"):
        await engine.apply_weights([update], [[payload[0][:-64], *payload[1:]]])
    delta = dataclasses.replace(update, base_version=version + 7)
    with pytest.raises(InfraError, match="builds on version"):
        await engine.apply_weights([delta], [payload])

    assert engine.policy_version == version
    turn = await engine.generate(make_request(oracle, oracle.encode(TASK)))
    assert difference(oracle, turn).max() < TOLERANCE


async def test_a_request_that_the_engine_refuses_fails_alone(
    engine: "VllmEngine", oracle: HfPolicy
) -> None:
    too_long = make_request(oracle, oracle.encode(TASK) * 100)
    good, bad = await asyncio.gather(
        engine.generate(make_request(oracle, oracle.encode(TASK))),
        engine.generate(too_long),
        return_exceptions=True,
    )
    assert isinstance(bad, InfraError)
    assert isinstance(good, Generated)


async def test_half_loaded_weights_end_the_engine_and_fail_every_request(
    config: Config, oracle: HfPolicy, images: MemoryImageStore
) -> None:
    """A tied head that is left out of an update would silently stay the old one."""
    from actors.vllm_engine import VllmEngine

    engine = await asyncio.to_thread(VllmEngine, config, images=images, stop_ids=[oracle.stop_id])
    request = make_request(oracle, oracle.encode(TASK), max_tokens=900, temperature=1.5)
    running = asyncio.create_task(engine.generate(request))
    await asyncio.sleep(0.2)
    weights = {k: v for k, v in oracle.model.state_dict().items() if k != "lm_head.weight"}
    update, payload = pack(weights, version=1)

    with pytest.raises(InfraError, match="lm_head"):
        await engine.apply_weights([update], [payload])
    with pytest.raises(InfraError, match="lm_head"):
        await running
    with pytest.raises(InfraError, match="lm_head"):
        await engine.generate(request)
    await engine.aclose()
