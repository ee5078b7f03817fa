"""How many episodes may run while renders or verdicts wait, over readings of the queues."""

import asyncio
import math
from dataclasses import replace

from cluster.backlog import Backlog, Queues, read_queues
from cluster.track.timeline import Timeline
from core.places import Places
from tests.simulated_clock import SimulatedLoop


def queues(
    *, running: int, waiting: int = 0, upstream_s: float = 150.0, downstream_s: float = 0.0
) -> Queues:
    return Queues(
        running=running, waiting=waiting, upstream_s=upstream_s, downstream_s=downstream_s
    )


def test_nothing_is_held_back_while_upstream_is_older() -> None:
    backlog = Backlog()
    for _ in range(100):
        reading = queues(running=64, waiting=30, upstream_s=200, downstream_s=200)
        assert backlog.room(reading) == math.inf


def test_when_downstream_is_older_a_tenth_of_all_that_is_under_way_goes() -> None:
    assert Backlog().room(queues(running=64, waiting=36, downstream_s=151)) == 90 - 36


def test_for_five_minutes_it_remembers_how_long_an_episode_can_take() -> None:
    backlog = Backlog()
    assert backlog.room(queues(running=64, upstream_s=160)) == math.inf
    lull = queues(running=8, waiting=32, upstream_s=30, downstream_s=155)
    assert [backlog.room(lull) for _ in range(59)] == [math.inf] * 59
    assert backlog.room(lull) == 36 - 32


def test_a_decrease_is_given_time_to_work() -> None:
    backlog = Backlog()
    backlog.room(queues(running=64, waiting=36, downstream_s=151))  # 90 of 100
    assert backlog.room(queues(running=54, waiting=40, downstream_s=156)) == 50
    assert backlog.room(queues(running=50, waiting=40, downstream_s=161)) == 81 - 40


def test_a_queue_that_drains_lets_as_many_episodes_begin() -> None:
    backlog = Backlog()
    backlog.room(queues(running=20, waiting=80, downstream_s=300))  # 90 of 100
    assert backlog.room(queues(running=11, waiting=80, downstream_s=300)) == 10
    assert backlog.room(queues(running=10, waiting=70, upstream_s=300)) == 91 - 70


def test_the_bound_rises_by_one_while_downstream_is_younger() -> None:
    backlog = Backlog()
    backlog.room(queues(running=10, waiting=10, downstream_s=151))  # 18 of 20
    rooms = [backlog.room(queues(running=8, waiting=8)) for _ in range(3)]
    assert rooms == [11, 12, 13]


def test_one_episode_may_run_when_nothing_waits_downstream() -> None:
    older = queues(running=1, waiting=1, downstream_s=900)
    backlog = Backlog()
    assert backlog.room(older) == 1.8 - 1
    assert backlog.room(replace(older, waiting=0)) == 1
    assert backlog.room(replace(older, running=0, waiting=3)) == 0
    assert backlog.room(queues(running=0, waiting=0)) == 1


def test_an_evaluation_alone_holds_nothing_back() -> None:
    backlog = Backlog()
    for _ in range(100):
        assert backlog.room(queues(running=0, waiting=50, downstream_s=900)) == math.inf
    assert backlog.room(queues(running=64)) == math.inf


def test_a_reading_tells_the_longest_queue_and_the_oldest_of_each_side() -> None:
    """Two episodes run and one waits; one of three renders and of two verdicts has a place."""

    async def read() -> tuple[Queues, Queues]:
        timeline = Timeline(lambda span: None, places={"render": 1, "judge": 1}, clock=loop.time)
        places = Places(2)
        empty = read_queues(places, timeline)

        async def work(kind: str, at_s: float) -> None:
            await asyncio.sleep(at_s)
            with timeline.span(kind, "x"):
                await asyncio.sleep(1_000)

        async def play(at_s: float) -> None:
            await asyncio.sleep(at_s)
            async with places.place():
                await work("rollout", 0)

        begun = [play(at_s) for at_s in (40, 50, 90)]
        begun += [work("render", at_s) for at_s in (10, 30, 60)]
        begun += [work("judge", at_s) for at_s in (0, 5)]
        tasks = [asyncio.create_task(one) for one in begun]
        await asyncio.sleep(100)
        reading = read_queues(places, timeline)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return empty, reading

    loop = SimulatedLoop()
    empty, reading = loop.run_until_complete(read())
    loop.close()
    assert empty == Queues(running=0, waiting=0, upstream_s=0, downstream_s=0)
    assert reading == Queues(running=2, waiting=2, upstream_s=60, downstream_s=95)
