"""vLLM with the model in a process of its own: new weights under running requests, dense and delta.

One rank in the usual suite; two, which start for longer, in the soak.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from actors.runtime_env import worker_env
from core.config import build_config
from core.errors import InfraError
from core.protocols import Generated
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
    from actors.vllm_async import AsyncVllmEngine

pytestmark = pytest.mark.integration


@asynccontextmanager
async def started(
    folder: Path, images: MemoryImageStore, *, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> "AsyncIterator[AsyncVllmEngine]":
    rollout = {
        **{"max_context": 1024, "max_turns": 4, "kv_cache_gib": 0.05},
        "tensor_parallel": num_ranks,
    }
    config = build_config(
        {"policy": {"path": str(folder)}, "render": {"path": str(folder)}, "rollout": rollout}
    )
    # The model's process starts in this folder and imports our worker's part.
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    for name, value in worker_env(config).items():
        monkeypatch.setenv(name, value)
    from actors.vllm_async import AsyncVllmEngine

    stop_ids = [HfPolicy(folder).stop_id]
    engine = await asyncio.to_thread(AsyncVllmEngine, config, images=images, stop_ids=stop_ids)
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.soak)])
async def test_weights_are_taken_in_flight_checked_and_mended(
    tmp_path: Path, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One story on one engine, since it starts for half a minute."""
    folder, images = build_tiny_policy(tmp_path / "policy"), MemoryImageStore()
    async with started(folder, images, num_ranks=num_ranks, monkeypatch=monkeypatch) as engine:
        await every_token_names_its_version(engine, folder, images)
        await a_torn_delta_is_refused_and_its_snapshot_mends_it(engine, folder)
        await half_loaded_weights_end_the_engine(engine, folder)


async def every_token_names_its_version(
    engine: "AsyncVllmEngine", folder: Path, images: MemoryImageStore
) -> None:
    oracle, first = HfPolicy(folder), HfPolicy(folder)
    png = make_png(7)
    seen = [oracle.see(images.put(png), png)]
    context = oracle.encode(f"<|im_start|>user\nIMG_001: {IMAGE}{ASSISTANT}")
    publisher = WeightPublisher(dtype="float32", mode="delta", snapshot_every=9)

    def long_request(index: int) -> Any:
        return make_request(
            oracle, context, seen, seed=index, index=index, temperature=1.5, max_tokens=600
        )

    running = [asyncio.create_task(engine.generate(long_request(n))) for n in range(3)]
    # It is stepped together with the three, so when it is done each of them has tokens.
    await engine.generate(make_request(oracle, context, seen, index=3, max_tokens=5))
    for version in (1, 2, 3):
        oracle.perturb(scale=0.02, seed=version)
        update, payload = publisher.publish(oracle.model.state_dict(), version=version)
        assert update.base_version == (None if version == 1 else version - 1)
        await engine.apply_weights([update], [payload])
        turn = await engine.generate(make_request(oracle, context, seen, seed=3))
        assert turn.completion.policy_versions == ((version, 0, len(turn.completion.token_ids)),)
        assert difference(oracle, turn, [png]).max() < TOLERANCE
    assert difference(first, turn, [png]).max() > 100 * TOLERANCE

    in_flight = await asyncio.gather(*running)
    assert any(len(turn.completion.policy_versions) > 1 for turn in in_flight)
    for turn in in_flight:
        spans = turn.completion.policy_versions
        assert [version for version, _, _ in spans] == list(range(len(spans)))
        middle = spans[0][2]
        old = Generated(prompt_ids=turn.prompt_ids, completion=head(turn.completion, middle))
        assert difference(first, old, [png]).max() < TOLERANCE


async def a_torn_delta_is_refused_and_its_snapshot_mends_it(
    engine: "AsyncVllmEngine", folder: Path
) -> None:
    oracle = HfPolicy(folder)
    publisher = WeightPublisher(dtype="float32", mode="delta", snapshot_every=9)
    snapshot = publisher.publish(oracle.model.state_dict(), version=4)
    await engine.apply_weights([snapshot[0]], [snapshot[1]])
    oracle.perturb(scale=0.02, seed=5)
    update, payload = publisher.publish(oracle.model.state_dict(), version=5)

    with pytest.raises(InfraError, match="checksum"):
        await engine.apply_weights([update], [torn(payload)])
    assert engine.policy_version == 4
    turn = await engine.generate(make_request(oracle, oracle.encode(TASK)))
    assert difference(HfPolicy(folder), turn).max() < TOLERANCE, "it samples on with the old ones"
    with pytest.raises(InfraError, match="builds on version 4, but here is none"):
        await engine.apply_weights([update], [payload])

    await engine.apply_weights([snapshot[0], update], [snapshot[1], payload])
    turn = await engine.generate(make_request(oracle, oracle.encode(TASK)))
    assert turn.completion.policy_versions[0][0] == 5
    assert difference(oracle, turn).max() < TOLERANCE


def torn(payload: Sequence[Any]) -> list[Any]:
    spoiled = payload[0].copy()
    spoiled[spoiled.size // 2] ^= 1
    return [spoiled, *payload[1:]]


async def half_loaded_weights_end_the_engine(engine: "AsyncVllmEngine", folder: Path) -> None:
    """A tied head that is left out of an update would silently stay the old one."""
    oracle = HfPolicy(folder)
    request = make_request(oracle, oracle.encode(TASK), max_tokens=900, temperature=1.5)
    running = asyncio.create_task(engine.generate(request))
    weights = {k: v for k, v in oracle.model.state_dict().items() if k != "lm_head.weight"}
    update, payload = pack(weights, version=6)

    with pytest.raises(InfraError, match="lm_head"):
        await engine.apply_weights([update], [payload])
    with pytest.raises(InfraError, match="lm_head"):
        await running
    with pytest.raises(InfraError, match="lm_head"):
        engine.check()
