"""What to do when something of ours fails: one table, no clock, no cluster.

A part is a piece of work (asked again, or given up) or a process (started again). One layer owns
each part, so that tries never multiply:

    EPISODE  cluster/members.py       lost with its worker, ended by an engine or a tool, or late
    GRADE    nobody                   render and verdict have been asked for again below
    RENDER   actors/render_client.py  replicas of Serve; an API's faults are asked again below
    VERDICT  actors/judge.py          the judge actor; its endpoint is asked again inside it
    WORKER   cluster/ray_pool.py      Ray restarts it; it gets the weights before it gets work
    LEARNER  cluster/controller.py    a new one goes on from the last checkpoint

Work that is given up becomes a `Failure`: counted, and left out of its group. Tool calls are not
here: the search client asks until its deadline, and the policy reads what came of it.
"""

from dataclasses import dataclass
from enum import StrEnum

from core.records import Failure


class Part(StrEnum):
    EPISODE = "episode"
    GRADE = "grade"
    RENDER = "render"
    VERDICT = "verdict"
    WORKER = "worker"
    LEARNER = "learner"


class Fault(StrEnum):
    LOST = "lost"
    """The process or its node is gone, or did not answer in time."""
    FAILED = "failed"
    """It answered with a fault that may pass."""
    HOPELESS = "hopeless"
    """It answered with a fault that the same request meets again."""
    WRONG = "wrong"
    """Fidelity, configuration, data, a bug: going on would hide it."""


class Action(StrEnum):
    RETRY = "retry"
    DROP = "drop"
    RESTART = "restart"
    RAISE = "raise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Used up when both are."""

    times: int = 0
    """Faults that may be answered by another try."""
    seconds: float = 0.0
    """Since the first fault. Above 30 where a node may be lost: Ray needs so long to notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    part: Part
    fault: Fault
    times: int = 1
    """Faults of this piece of work or process so far, this one included."""
    seconds: float = 0.0
    """Since the first of them."""


_FIRST_AND_LAST: dict[tuple[Part, Fault], tuple[Action, Action]] = {
    (Part.EPISODE, Fault.LOST): (Action.RETRY, Action.DROP),
    (Part.EPISODE, Fault.FAILED): (Action.RETRY, Action.DROP),
    (Part.RENDER, Fault.LOST): (Action.RETRY, Action.DROP),
    (Part.VERDICT, Fault.LOST): (Action.RETRY, Action.DROP),
    (Part.WORKER, Fault.LOST): (Action.RESTART, Action.RESTART),
    (Part.WORKER, Fault.FAILED): (Action.RESTART, Action.RESTART),
    (Part.WORKER, Fault.HOPELESS): (Action.RESTART, Action.DROP),
    (Part.LEARNER, Fault.LOST): (Action.RESTART, Action.RAISE),
    (Part.LEARNER, Fault.FAILED): (Action.RAISE, Action.RAISE),
    (Part.LEARNER, Fault.HOPELESS): (Action.RAISE, Action.RAISE),
}
"""While the budget lasts, and after it. Every other work is dropped, every other wrong raised."""


def decide(event: Event, *, budget: Budget) -> Action:
    if event.fault is Fault.WRONG:
        return Action.RAISE
    first, last = _FIRST_AND_LAST.get((event.part, event.fault), (Action.DROP, Action.DROP))
    lasts = event.times <= budget.times or event.seconds < budget.seconds
    return first if lasts else last


def fault_of(failure: Failure) -> Fault:
    return Fault.FAILED if failure.retryable else Fault.HOPELESS
