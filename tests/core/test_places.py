"""Places: never more than there are, the most urgent first, and nobody is forgotten."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from core.places import Places
from tests.simulated_clock import on_a_simulated_clock

MOVES = ("enter", "cancel", "leave", "resize")


async def hold(places: Places, urgency: tuple[float, ...], log: list[tuple[float, ...]]) -> None:
    async with places.place(urgency):
        log.append(urgency)
        await asyncio.sleep(0)


async def test_the_most_urgent_goes_first_and_equals_in_the_order_of_their_coming() -> None:
    places, log = Places(1), []
    async with places.place():
        urgencies = [(2.0,), (1.0, 5.0), (0.0,), (1.0, 4.0)]
        waiting = [asyncio.create_task(hold(places, one, log)) for one in urgencies]
        await asyncio.sleep(0)
        assert places.num_waiting == 4
    await asyncio.gather(*waiting)
    assert log == [(0.0,), (1.0, 4.0), (1.0, 5.0), (2.0,)]


@on_a_simulated_clock
async def test_the_oldest_that_waits_has_an_age_and_the_longest_wait_is_told_once() -> None:
    places = Places(1)
    assert (places.oldest_waiting_s, places.take_longest_wait_s()) == (0, 0)
    async with places.place():
        waiting = [asyncio.create_task(hold(places, (2,), []))]
        await asyncio.sleep(3)
        waiting.append(asyncio.create_task(hold(places, (1,), [])))
        await asyncio.sleep(4)
        assert places.oldest_waiting_s == 7
        assert places.take_longest_wait_s() == 7
        await asyncio.sleep(1)
    await asyncio.gather(*waiting)
    assert (places.oldest_waiting_s, places.take_longest_wait_s()) == (0, 8)
    assert places.take_longest_wait_s() == 0


async def test_fewer_places_put_nobody_out_and_more_let_in_at_once() -> None:
    places, log = Places(2), []
    async with places.place(), places.place():
        places.resize(1)
        assert places.taken == 2
        waiting = asyncio.create_task(hold(places, (), log))
        await asyncio.sleep(0)
        assert log == []
        places.resize(3)
        await waiting
    assert places.taken == 0


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(1, 4),
    moves=st.lists(
        st.tuples(st.sampled_from(["enter", "cancel", "leave", "resize"]), st.integers())
    ),
)
def test_whatever_happens_every_place_comes_back(number: int, moves: list[tuple[str, int]]) -> None:
    async def play() -> None:
        places = Places(number)
        may_leave = asyncio.Event()
        inside: set[int] = set()

        async def visit(name: int) -> None:
            async with places.place((name % 3,)):
                inside.add(name)
                try:
                    await may_leave.wait()
                finally:
                    inside.discard(name)

        limit, visitors = number, []
        for move, choice in moves:
            if move == "enter":
                visitors.append(asyncio.create_task(visit(choice)))
            elif move == "cancel" and visitors:
                visitors[choice % len(visitors)].cancel()
            elif move == "leave":
                may_leave.set()
            elif move == "resize":
                places.resize(1 + choice % 4)
                limit = max(limit, places.number)
            if choice % 2:  # else several things happen at the same moment
                await asyncio.sleep(0)
            assert len(inside) <= places.taken <= limit
        may_leave.set()
        await asyncio.gather(*visitors, return_exceptions=True)
        assert (places.taken, places.num_waiting) == (0, 0)

    asyncio.run(play())
