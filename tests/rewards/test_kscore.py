"""K-Score arithmetic against numbers worked out by hand."""

import pytest

from core.protocols import ImageVerdict
from core.records import Provenance, ScorePart
from rewards.kscore import kscore_parts, weighted_sum

PROVENANCE = Provenance(judge="test", prompt_sha="")


def _parts(text: float | None, na_rule: str) -> tuple[ScorePart, ...]:
    verdict = ImageVerdict(
        faithfulness=1.0,
        visual_correctness=0.5,
        text_accuracy=text,
        aesthetics=0.0,
        rationale="because",
    )
    return kscore_parts(verdict, na_rule=na_rule, provenance=PROVENANCE)


def test_all_four_dimensions_use_the_papers_weights() -> None:
    assert weighted_sum(_parts(1.0, "renormalise")) == pytest.approx(0.1 + 0.2 + 0.4)
    assert weighted_sum(_parts(1.0, "paper")) == pytest.approx(0.7)


def test_no_text_renormalises_over_the_other_three() -> None:
    parts = _parts(None, "renormalise")
    assert weighted_sum(parts) == pytest.approx((0.1 * 1 + 0.4 * 0.5) / 0.6)
    assert [(p.value, p.weight) for p in parts if p.name == "text_accuracy"] == [(None, 0.0)]


def test_no_text_counts_half_under_the_papers_rule() -> None:
    assert weighted_sum(_parts(None, "paper")) == pytest.approx(0.1 + 0.2 + 0.4 * 0.5)
