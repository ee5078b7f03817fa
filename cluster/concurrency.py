"""How many episodes run at once: as many as the engines can hold, found out as they run, and as the
work that comes after them keeps up with (cluster/backlog.py).

Additive increase, multiplicative decrease. An engine is short of room when it has thrown requests
out of its KV cache, or when requests wait while the cache is full; their prompts are then computed
again, which costs more than the episodes gain.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from actors.stats import EngineStats
from cluster.backlog import Backlog, read_queues
from cluster.track.timeline import Timeline
from core.places import Places
from core.sections.run import TrainConfig

logger = logging.getLogger(__name__)

ReadEngines = Callable[[], Awaitable[Sequence[EngineStats]]]
READ_EVERY_S = 5.0

FULL = 0.95
"""Share of the KV cache."""
ROOM = 0.8
DECREASE = 0.75


class Concurrency:
    """Pure: readings in, a number out."""

    def __init__(self, *, most: int) -> None:
        """Begins with `most` (`rollout.max_parallel_episodes`), and never exceeds it."""
        self._most = most
        self._number = most

    @property
    def number(self) -> int:
        return self._number

    def update(self, engines: Sequence[EngineStats], *, running: int, waiting: int) -> int:
        """After one reading of every engine, with so many episodes running and waiting for room."""
        still_falling = running > self._number  # the last decrease has not worked yet
        if not engines or not running or still_falling:
            return self._number  # with none running, what fills the engines is an evaluation
        if any(_is_short(engine) for engine in engines):
            self._number = max(len(engines), int(DECREASE * min(self._number, running)))
        # With fewer running, something else than this number keeps them waiting.
        elif waiting and running == self._number and all(map(_has_room, engines)):
            self._number = min(self._most, self._number + len(engines))
        return self._number


async def balance(
    places: Places, read_engines: ReadEngines, timeline: Timeline, config: TrainConfig
) -> NoReturn:
    """Keep the number of places at what engines, renders and judges allow, and at most what it is
    now. In sync mode only the engines count: the learner waits for all that is played.
    """
    concurrency, backlog = Concurrency(most=places.number), Backlog()
    while True:
        await asyncio.sleep(READ_EVERY_S)
        engines = await read_engines()
        number = concurrency.update(engines, running=places.taken, waiting=places.num_waiting)
        if config.max_staleness > 0:
            number = int(min(number, backlog.room(read_queues(places, timeline))))
        if number != places.number:
            logger.info("%s episodes at once, %s before", number, places.number)
            places.resize(number)


def place_metrics(places: Places) -> dict[str, float]:
    """Of the places for episodes: an episode waits before its span begins."""
    return {
        "rollout/at_once": float(places.number),
        "pools/rollout_waiting": float(places.num_waiting),
        "pools/rollout_oldest_s": places.take_longest_wait_s(),
    }


def _is_short(engine: EngineStats) -> bool:
    full = engine.kv_usage is not None and engine.kv_usage >= FULL
    return engine.num_preempted > 0 or (full and engine.num_waiting > 0)


def _has_room(engine: EngineStats) -> bool:
    return engine.num_waiting == 0 and (engine.kv_usage is None or engine.kv_usage < ROOM)
