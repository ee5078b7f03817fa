"""Episodes wait while what comes after them has waited longer: what is played now would only age
there, while the policy moves on (docs/decisions/0007-queue-age.md).

What is under way is bounded: episodes that run, and finished ones that wait for their render or
verdict. A queue that has drained by one lets one more episode begin. The bound falls by a tenth
when the oldest render or verdict has waited longer than an episode takes to come there: the wait of
the oldest task for its episode, or the time for which the oldest episode has run, whichever is
more. Else it rises by one. What begins after a shorter wait could be too late to find the queue,
and the pool would run dry.
"""

import math
from collections import deque
from dataclasses import dataclass

from cluster.track.timeline import Timeline
from core.places import Places

DECREASE = 0.9
READINGS = 60
"""Of upstream, the largest of which counts; five minutes. In a lull the only episodes are young,
and those to come will take longer than they have run."""
DOWNSTREAM = ("render", "judge")
"""Without tools: their calls are known when their episode has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """One reading."""

    running: int
    """Episodes."""
    waiting: int
    """Renders or verdicts without a place, whichever are more."""
    upstream_s: float
    """How long the oldest task has waited for its episode, or the oldest episode has run."""
    downstream_s: float
    """How long the oldest render or verdict has waited for its place."""


class Backlog:
    """Pure: readings in, room for episodes out."""

    def __init__(self) -> None:
        self._bound = math.inf
        self._upstream_s: deque[float] = deque(maxlen=READINGS)

    def room(self, queues: Queues) -> float:
        """How many episodes may run. One at least when no render or verdict waits: those that do
        will end, so nothing waits for ever."""
        self._upstream_s.append(queues.upstream_s)
        under_way = queues.running + queues.waiting
        # Until the last decrease has worked, the queue's age cannot tell whether it was enough.
        still_falling = under_way > self._bound
        if queues.running and not still_falling:  # with none running, it is an evaluation's work
            is_behind = queues.downstream_s > max(self._upstream_s)
            self._bound = DECREASE * under_way if is_behind else self._bound + 1
        least = 0 if queues.waiting else 1
        return max(least, self._bound - queues.waiting)


def read_queues(places: Places, timeline: Timeline) -> Queues:
    """`places`: those of the episodes. Call it on the loop."""
    waiting_s = [timeline.waiting_s(kind) for kind in DOWNSTREAM]
    return Queues(
        running=places.taken,
        waiting=max(len(ages_s) for ages_s in waiting_s),
        upstream_s=max(places.oldest_waiting_s, *timeline.ages_s("rollout"), 0.0),
        downstream_s=max((ages_s[0] for ages_s in waiting_s if ages_s), default=0.0),
    )
