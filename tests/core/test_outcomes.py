from core.outcomes import OUTCOMES, outcome_of
from core.records import StopReason


def test_every_stop_reason_has_an_outcome() -> None:
    assert set(OUTCOMES) == set(StopReason)


def test_only_an_answer_is_judged_and_the_rest_is_a_real_low_score() -> None:
    for reason in StopReason:
        outcome = outcome_of(reason, masked_reasons=frozenset())
        assert outcome.scored_by_judges == (reason is StopReason.ANSWER)
        assert not outcome.masked


def test_a_recipe_masks_what_it_names_and_nothing_else() -> None:
    masked = frozenset({StopReason.TOO_LONG, StopReason.REPEATED})

    assert {r for r in StopReason if outcome_of(r, masked_reasons=masked).masked} == masked
