"""How full a pool was, against numbers counted by hand and by the second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.track.pools import PoolUse, places_of, use_of
from core.config import build_config

seconds = st.integers(-5, 25)


def test_what_finds_no_place_waits() -> None:
    assert use_of([(0, 4), (2, 6)], start_s=0, end_s=8, places=1) == PoolUse(
        busy=6 / 8, waiting=2 / 8, oldest_s=2
    )
    assert use_of([(0, 4), (2, 6)], start_s=0, end_s=8, places=2) == PoolUse(
        busy=0.5, waiting=0, oldest_s=0
    )


def test_the_oldest_is_the_first_that_finds_no_place() -> None:
    spans = [(-9, 4), (-6, 7), (5, 8), (6, 9)]
    assert use_of(spans, start_s=0, end_s=8, places=1).oldest_s == 10
    assert use_of(spans, start_s=5, end_s=8, places=1).oldest_s == 2


def test_work_before_and_after_the_step_counts_for_nothing() -> None:
    spans = [(-10.0, 1.0), (9.0, 20.0), (11.0, 12.0), (-3.0, -2.0)]
    assert use_of(spans, start_s=0, end_s=10, places=1).busy == pytest.approx(0.2)
    assert use_of(spans, start_s=5, end_s=5, places=1) == PoolUse(busy=0, waiting=0, oldest_s=0)


@given(
    st.lists(st.tuples(seconds, seconds).filter(lambda span: span[0] <= span[1]), max_size=8),
    st.integers(1, 3),
)
def test_the_numbers_are_those_counted_second_by_second(
    spans: list[tuple[int, int]], places: int
) -> None:
    under_way = [sum(start <= second < end for start, end in spans) for second in range(20)]
    use = use_of(spans, start_s=0, end_s=20, places=places)
    assert use.busy == pytest.approx(sum(min(n, places) for n in under_way) / (20 * places))
    assert use.waiting == pytest.approx(sum(max(n - places, 0) for n in under_way) / 20)
    waiting = [
        (second, sorted(start for start, end in spans if start <= second < end)[places:])
        for second in range(20)
    ]
    assert use.oldest_s == max(
        second + 1 - starts[0] if starts else 0 for second, starts in waiting
    )


def test_the_recipe_says_how_many_places_there_are() -> None:
    nano = places_of(build_config({"rollout": {"max_parallel_episodes": 5}}))
    assert nano == {"rollout": 5, "tool": 1, "render": 1, "judge": 1, "learn": 1}
    bought = build_config(
        {
            "tools": {
                "search": ["serper", "nano"],
                "image_search": ["serper"],
                "pages": ["jina", "fetch"],
                "serper": {"max_in_flight": 7},
                "jina": {"max_in_flight": 3},
            },
            "render": {"backend": "openai", "api": {"model": "m", "max_in_flight": 4}},
            "judge": {"kind": "gemini", "model": "m", "max_in_flight": 6},
        }
    )
    places = places_of(bought)
    assert (places["tool"], places["render"], places["judge"]) == (10, 4, 6)
