"""K-Score arithmetic against numbers worked out by hand."""

import pytest

from core.protocols import ImageVerdict
from core.records import Provenance, ScorePart
from rewards.kscore import NaRule, kscore, kscore_parts, weighted_sum

PROVENANCE = Provenance(judge="test", prompt_sha="")
GRADES = {"faithfulness": 1.0, "visual_correctness": 0.5, "aesthetics": 0.0}


def _parts(text: float | None, na_rule: NaRule) -> tuple[ScorePart, ...]:
    verdict = ImageVerdict(text_accuracy=text, rationale="because", **GRADES)
    return kscore_parts(verdict, na_rule=na_rule, provenance=PROVENANCE)


def test_all_four_dimensions_use_the_papers_weights() -> None:
    assert weighted_sum(_parts(1.0, "renormalise")) == pytest.approx(0.1 + 0.2 + 0.4)
    assert weighted_sum(_parts(1.0, "paper")) == pytest.approx(0.7)
    assert kscore({**GRADES, "text_accuracy": 1.0}, na_rule="paper") == pytest.approx(0.7)


def test_no_text_renormalises_over_the_other_three() -> None:
    parts = _parts(None, "renormalise")
    assert weighted_sum(parts) == pytest.approx((0.1 * 1 + 0.4 * 0.5) / 0.6)
    assert [(p.value, p.weight) for p in parts if p.name == "text_accuracy"] == [(None, 0.0)]


def test_no_text_counts_half_under_the_papers_rule() -> None:
    assert weighted_sum(_parts(None, "paper")) == pytest.approx(0.1 + 0.2 + 0.4 * 0.5)
    assert kscore({**GRADES, "text_accuracy": None}, na_rule="paper") == pytest.approx(0.5)


def test_the_papers_rule_confines_a_row_without_text_to_its_published_range() -> None:
    def row(grade: float) -> dict[str, float | None]:
        return dict.fromkeys(GRADES, grade) | {"text_accuracy": None}

    assert kscore(row(0.0), na_rule="paper") == pytest.approx(0.2)
    assert kscore(row(1.0), na_rule="paper") == pytest.approx(0.8)
    assert kscore(row(1.0), na_rule="renormalise") == pytest.approx(1.0)
