"""The pools of a run, and how full each was during a step.

A pool has a number of places; work that finds none waits. The numbers follow from how many pieces
of its work were under way when: as many as there are places are busy, the others wait.

    use_of([(0, 4), (2, 6)], start_s=0, end_s=8, places=1)
        == PoolUse(busy=0.75, waiting=0.25, oldest_s=2)
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from actors.image_models import is_api
from core.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    busy: float
    """Share of its places that were taken, in [0, 1], on average over time."""
    waiting: float
    """Pieces of work that waited for a place, on average over time."""
    oldest_s: float
    """The longest that one of them had waited at any moment, as if they went in their order."""


def places_of(config: Config) -> Mapping[str, int]:
    """Kind of span -> how many of them the recipe has room for at once."""
    judge, render, tools = config.judge, config.render, config.tools
    asked_first = {names[0] for names in (tools.search, tools.image_search, tools.pages)}
    judges = {"pixels": 1, "served": judge.served.max_ongoing * judge.served.max_replicas}
    return {
        "rollout": config.rollout.max_parallel_episodes,
        "tool": sum(_provider_places(config, name) for name in asked_first),
        "render": render.api.max_in_flight if is_api(render) else render.max_replicas,
        "judge": judges.get(judge.kind, judge.max_in_flight),
        "learn": 1,
    }


def _provider_places(config: Config, name: str) -> int:
    """A corpus of our own is read by the search actors themselves."""
    service = getattr(config.tools, name, None)
    places: int = getattr(service, "max_in_flight", config.cluster.search_actors)
    return places


def use_of(
    intervals: Iterable[tuple[float, float]], *, start_s: float, end_s: float, places: int
) -> PoolUse:
    """From `start_s` to `end_s`; what lies outside counts for nothing."""
    if end_s <= start_s:
        return PoolUse(busy=0.0, waiting=0.0, oldest_s=0.0)
    spans = [(start, end) for start, end in intervals if start < end_s and end > start_s]
    changes = [
        change
        for start, end in spans
        if (begun := max(start, start_s)) < (over := min(end, end_s))
        for change in ((begun, 1), (over, -1))
    ]
    busy = waiting = 0.0
    under_way, since = 0, start_s
    for at, change in sorted(changes):
        busy += min(under_way, places) * (at - since)
        waiting += max(under_way - places, 0) * (at - since)
        under_way, since = under_way + change, at
    length = end_s - start_s
    oldest_s = _oldest_s(spans, start_s=start_s, end_s=end_s, places=places)
    return PoolUse(busy=busy / (places * length), waiting=waiting / length, oldest_s=oldest_s)


def _oldest_s(
    spans: Sequence[tuple[float, float]], *, start_s: float, end_s: float, places: int
) -> float:
    """At any moment the first that finds no place has waited longest, and longer until the next
    piece of work ends."""
    starts = [(start, True, start) for start, _ in spans]
    ends = [(min(end, end_s), False, start) for start, end in spans]
    oldest_s = 0.0
    under_way: list[float] = []
    for at, begins, start in sorted(starts + ends, key=lambda change: (change[0], not change[1])):
        if begins:
            insort(under_way, start)
            continue
        if at >= start_s and len(under_way) > places:
            oldest_s = max(oldest_s, at - under_way[places])
        del under_way[bisect_left(under_way, start)]
    return oldest_s
