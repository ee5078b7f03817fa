"""The failure policy, row by row: what fails, how often already, what is done."""

import pytest

from core.errors import InfraError
from core.failure_policy import Action, Budget, Event, Fault, Part, decide, fault_of

ONCE, TWICE = Budget(times=1), Budget(times=2)
BOTH = Budget(times=2, seconds=60.0)
LATE = 61.0


@pytest.mark.parametrize(
    ("part", "fault", "times", "seconds", "budget", "action"),
    [
        (Part.EPISODE, Fault.LOST, 1, 0.0, TWICE, Action.RETRY),
        (Part.EPISODE, Fault.FAILED, 2, 0.0, TWICE, Action.RETRY),
        (Part.EPISODE, Fault.FAILED, 3, 0.0, TWICE, Action.DROP),
        (Part.EPISODE, Fault.HOPELESS, 1, 0.0, TWICE, Action.DROP),
        (Part.EPISODE, Fault.WRONG, 1, 0.0, TWICE, Action.RAISE),
        (Part.GRADE, Fault.FAILED, 1, 0.0, TWICE, Action.DROP),
        (Part.RENDER, Fault.LOST, 1, LATE, BOTH, Action.RETRY),
        (Part.RENDER, Fault.LOST, 9, 59.0, BOTH, Action.RETRY),
        (Part.RENDER, Fault.LOST, 3, LATE, BOTH, Action.DROP),
        (Part.RENDER, Fault.FAILED, 1, 0.0, BOTH, Action.DROP),
        (Part.VERDICT, Fault.LOST, 1, LATE, ONCE, Action.RETRY),
        (Part.VERDICT, Fault.LOST, 2, 0.0, ONCE, Action.DROP),
        (Part.VERDICT, Fault.HOPELESS, 1, 0.0, ONCE, Action.DROP),
        (Part.WORKER, Fault.LOST, 99, LATE, TWICE, Action.RESTART),
        (Part.WORKER, Fault.FAILED, 99, LATE, TWICE, Action.RESTART),
        (Part.WORKER, Fault.HOPELESS, 2, 0.0, TWICE, Action.RESTART),
        (Part.WORKER, Fault.HOPELESS, 3, 0.0, TWICE, Action.DROP),
        (Part.LEARNER, Fault.LOST, 2, 0.0, TWICE, Action.RESTART),
        (Part.LEARNER, Fault.LOST, 3, 0.0, TWICE, Action.RAISE),
        (Part.LEARNER, Fault.FAILED, 1, 0.0, TWICE, Action.RAISE),
        (Part.LEARNER, Fault.WRONG, 1, 0.0, TWICE, Action.RAISE),
    ],
)
def test_what_is_done(
    part: Part, fault: Fault, times: int, seconds: float, budget: Budget, action: Action
) -> None:
    event = Event(part=part, fault=fault, times=times, seconds=seconds)
    assert decide(event, budget=budget) is action


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("fault", Fault)
def test_an_endless_row_of_faults_is_never_retried_without_end(part: Part, fault: Fault) -> None:
    event = Event(part=part, fault=fault, times=10**6, seconds=1e9)
    assert decide(event, budget=BOTH) is not Action.RETRY


def test_a_failure_is_hopeless_when_it_says_so() -> None:
    assert fault_of(InfraError("busy").as_failure()) is Fault.FAILED
    assert fault_of(InfraError("no such file", retryable=False).as_failure()) is Fault.HOPELESS
