"""Weights that are sent to a rollout worker twice at once; no engine, no cluster."""

import asyncio
from typing import Any

from actors.rollout import RolloutWorker


class OneAtATime:
    """An engine that notices a second update during the first."""

    def __init__(self) -> None:
        self.applied: list[Any] = []
        self._busy = False

    async def apply_weights(self, updates: Any, payloads: Any) -> None:
        assert not self._busy, "two updates at once"
        self._busy = True
        await asyncio.sleep(0)
        self.applied.append(updates)
        self._busy = False


async def test_an_update_waits_for_the_one_before() -> None:
    worker = RolloutWorker.__new__(RolloutWorker)
    worker._engine = engine = OneAtATime()  # type: ignore[assignment]
    worker._updating = asyncio.Lock()
    await asyncio.gather(*(worker.apply_weights([number], []) for number in range(3)))  # type: ignore[list-item]
    assert engine.applied == [[0], [1], [2]]
