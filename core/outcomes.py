"""What each stop reason costs: a score floor that is trained on, or a mask that is not.

The floor (0.0 by default) is a real score for the agent's own fault. A masked member is left out
of the group's statistics and of the loss, as the paper's recipe does for over-long and repeated
rollouts (arXiv 2603.28767, section 3.3). Our own faults never come here: they are a `Failure`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.records import StopReason

FLOOR = 0.0
"""The score of an episode that ended without a usable answer by the agent's own fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a stop reason means for training."""

    scored_by_judges: bool
    """True: there is an answer, so it is rendered and judged."""
    masked: bool
    """True: counted, but left out of the group's statistics and of the loss."""


_JUDGED = Outcome(scored_by_judges=True, masked=False)
_FLOORED = Outcome(scored_by_judges=False, masked=False)
_MASKED = Outcome(scored_by_judges=False, masked=True)

OUTCOMES: Mapping[StopReason, Outcome] = {
    StopReason.ANSWER: _JUDGED,
    StopReason.NO_ANSWER: _FLOORED,
    StopReason.BAD_ANSWER: _FLOORED,
    StopReason.BAD_FORMAT: _FLOORED,
    StopReason.REPEATED: _FLOORED,
    StopReason.TOO_LONG: _FLOORED,
}


def outcome_of(reason: StopReason, *, masked_reasons: frozenset[StopReason]) -> Outcome:
    """The table, with the recipe's masks (`train.masked_stop_reasons`) applied."""
    return _MASKED if reason in masked_reasons else OUTCOMES[reason]
