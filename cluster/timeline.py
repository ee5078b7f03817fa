"""What is happening, since when, and how long each stage took.

The controller and the grader open a span around every piece of work; workers report theirs
afterwards (`add`). The open spans say what the run waits for (live screen, watchdog); the closed
ones become seconds per stage (metrics) and bars of the report's timeline (recorder).

    timeline = Timeline(recorder.span)
    with timeline.span("render", "7.2.0"):
        ...
    timeline.end_step() == {"render": 1.2, "idle": 0.1, "step": 1.3, ...}
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

STAGES = ("rollout", "tool", "render", "judge", "learn", "broadcast")
"""Kinds of spans, in the order in which a trajectory meets them."""


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
        self, sink: Callable[[Span], None], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._sink = sink
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

    def end_step(self) -> dict[str, float]:
        """Seconds in which at least one span of a kind ran, for spans closed since the last step
        ended ("step" ago).

        Stages overlap, so the sum may exceed the wall clock. A moment is counted once per kind
        even when a span reaches back over an earlier step. "idle" is the time in which nothing at
        all ran.
        """
        since_s, now = self._step_ended_s, self._clock()
        running = [(span.start_s, now) for span in self._open.values()]
        closed = [(s.start_s, s.end_s) for spans in self._closed.values() for s in spans]
        seconds = {"idle": max(0.0, now - since_s - covered(running + closed, since_s=since_s))}
        for kind in STAGES:
            spans = [(span.start_s, span.end_s) for span in self._closed[kind]]
            seconds[kind] = covered(spans, since_s=self._counted_until.get(kind, 0.0))
            if spans:
                latest = max(end for _, end in spans)
                self._counted_until[kind] = max(latest, self._counted_until.get(kind, 0.0))
        self._closed.clear()
        self._step_ended_s = now
        return {**seconds, "step": now - since_s}


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
