"""What is happening, since when, and how long each stage took.

The controller and the grader open a span around every piece of work; workers report theirs
afterwards (`add`). The open spans say what the run waits for (live screen, watchdog); the closed
ones become seconds per stage (metrics) and bars of the report's timeline (recorder).

    timeline = Timeline(recorder.span)
    with timeline.span("render", "7.2.0"):
        ...
    timeline.end_step() == {"seconds/render": 1.2, "pools/render_busy": 0.6, ...}
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from cluster.track.pools import PoolUse, use_of

T = TypeVar("T")

STAGES = ("rollout", "tool", "render", "judge", "learn", "broadcast")
"""Kinds of spans, in the order in which a trajectory meets them."""
REPORTED_LATE = frozenset({"tool"})
"""Kinds that are known only when their episode has ended."""
QUEUES = ("tool", "render", "judge")
"""Kinds whose spans begin when the work does not yet have its place. An episode's begins when it
has one: core.places.Places knows how long it waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One piece of work; times are unix seconds."""

    kind: str
    item: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSpan:
    kind: str
    item: str
    start_s: float


class Timeline:
    """Open and closed spans of one run. Not thread-safe: it lives on the controller's loop."""

    def __init__(
        self,
        sink: Callable[[Span], None],
        *,
        places: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`places`: kind -> how many of them run at once; only these have `pools/` metrics."""
        self._sink = sink
        self._places = places or {}
        self._clock = clock
        self._open: dict[int, OpenSpan] = {}
        self._next_key = 0
        self._closed: dict[str, list[Span]] = defaultdict(list)
        self._counted_until: dict[str, float] = {}
        self._last_change_s = self._step_ended_s = clock()

    @contextmanager
    def span(self, kind: str, item: str) -> Iterator[None]:
        """Everything inside counts as `kind`, however it ends."""
        key = self._next_key
        self._next_key += 1
        self._last_change_s = self._clock()
        opened = OpenSpan(kind=kind, item=item, start_s=self._last_change_s)
        self._open[key] = opened
        try:
            yield
        finally:
            del self._open[key]
            self._last_change_s = self._clock()
            end_s = self._last_change_s
            self.add(Span(kind=kind, item=item, start_s=opened.start_s, end_s=end_s))

    async def learning(self, item: str, work: Awaitable[T]) -> T:
        """What the learner gives, inside a span."""
        with self.span("learn", item):
            return await work

    def add(self, span: Span) -> None:
        """A piece of work that is over, e.g. one tool call inside an episode."""
        self._closed[span.kind].append(span)
        self._sink(span)

    def now(self) -> float:
        return self._clock()

    def touch(self) -> None:
        """Start to wait afresh: what was quiet until now was meant to be."""
        self._last_change_s = self._clock()

    @property
    def quiet_s(self) -> float:
        """Seconds since anything began or ended."""
        return self._clock() - self._last_change_s

    @property
    def open_spans(self) -> tuple[OpenSpan, ...]:
        return tuple(self._open.values())

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Open spans by kind."""
        return Counter(span.kind for span in self.open_spans)

    @property
    def oldest(self) -> OpenSpan | None:
        return min(self.open_spans, key=lambda span: span.start_s, default=None)

    def ages_s(self, kind: str) -> list[float]:
        """Of the open spans of a kind, the oldest first."""
        now = self._clock()
        return sorted((now - s.start_s for s in self.open_spans if s.kind == kind), reverse=True)

    def waiting_s(self, kind: str) -> list[float]:
        """Of them, those that find no place, as if they went in their order."""
        return self.ages_s(kind)[self._places.get(kind, sys.maxsize) :]

    def end_step(self) -> dict[str, float]:
        """`seconds/` and `pools/` metrics of the time since the last step ended
        (docs/metrics.md), from the spans closed since then and from those that are open."""
        since_s, now = self._step_ended_s, self._clock()
        use = self._use(since_s=since_s, now=now)
        seconds = {**self._seconds(since_s=since_s, now=now), "step": now - since_s}
        self._closed.clear()
        self._step_ended_s = now
        return {
            **{f"seconds/{kind}": value for kind, value in seconds.items()},
            **{f"pools/{kind}_busy": pool.busy for kind, pool in use.items()},
            **{f"pools/{kind}_waiting": use[kind].waiting for kind in use if kind != "rollout"},
            **{f"pools/{kind}_oldest_s": use[kind].oldest_s for kind in QUEUES if kind in use},
        }

    def _use(self, *, since_s: float, now: float) -> dict[str, PoolUse]:
        """Work that is reported late is averaged over the time that it spans."""
        spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for opened in self.open_spans:
            spans[opened.kind].append((opened.start_s, now))
        for kind, closed in self._closed.items():
            spans[kind] += [(span.start_s, span.end_s) for span in closed]
        found = {}
        for kind, places in self._places.items():
            late = [start for start, _ in spans[kind]] if kind in REPORTED_LATE else []
            start_s = min([since_s, *late])
            found[kind] = use_of(spans[kind], start_s=start_s, end_s=now, places=places)
        return found

    def _seconds(self, *, since_s: float, now: float) -> dict[str, float]:
        """Seconds in which at least one span of a kind ran, for spans closed since last time.

        Stages overlap, so the sum may exceed the wall clock. A moment is counted once per kind
        even when a span reaches back over an earlier step. "idle" is the time in which nothing at
        all ran.
        """
        running = [(span.start_s, now) for span in self._open.values()]
        closed = [(s.start_s, s.end_s) for spans in self._closed.values() for s in spans]
        seconds = {"idle": max(0.0, now - since_s - covered(running + closed, since_s=since_s))}
        for kind in STAGES:
            spans = [(span.start_s, span.end_s) for span in self._closed[kind]]
            seconds[kind] = covered(spans, since_s=self._counted_until.get(kind, 0.0))
            if spans:
                latest = max(end for _, end in spans)
                self._counted_until[kind] = max(latest, self._counted_until.get(kind, 0.0))
        return seconds


def covered(intervals: Iterable[tuple[float, float]], *, since_s: float) -> float:
    """Length of the union of intervals, as far as it lies after `since_s`.

    Example: covered([(0, 2), (1, 4), (5, 6)], since_s=1) == 4.0
    """
    total = 0.0
    reached = since_s
    for start, end in sorted(intervals):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total
