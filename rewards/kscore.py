"""K-Score of one image, from its grades (arXiv 2603.28767, section 4.2).

K = 0.1 faithfulness + 0.4 visual correctness + 0.4 text accuracy + 0.1 aesthetics, each in
{0, 0.5, 1}. When no text is asked for, one of two rules decides: `renormalise` spreads the weight
over the three other dimensions; `paper` counts text accuracy as 0.5. Nothing is rounded.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from core.protocols import ImageVerdict
from core.records import Provenance, ScorePart

NaRule = Literal["renormalise", "paper"]

WEIGHTS: Mapping[str, float] = {
    "faithfulness": 0.1,
    "visual_correctness": 0.4,
    "text_accuracy": 0.4,
    "aesthetics": 0.1,
}
PAPER_NA_VALUE = 0.5


def kscore(grades: Mapping[str, float | None], *, na_rule: NaRule) -> float:
    """K of four grades (or of four means of grades); text_accuracy may be None."""
    weighed = _weighed(grades, na_rule=na_rule)
    return sum(weight * value for value, weight in weighed.values() if value is not None)


def kscore_parts(
    verdict: ImageVerdict, *, na_rule: NaRule, provenance: Provenance
) -> tuple[ScorePart, ...]:
    """The four dimensions with the weights that make up K; K = sum of weight * value.

    A dimension that does not apply under `renormalise` has value None and weight 0.
    """
    grades = {name: getattr(verdict, name) for name in WEIGHTS}
    return tuple(
        ScorePart(
            name=name,
            value=value,
            weight=weight,
            rationale=verdict.rationale,
            provenance=provenance,
        )
        for name, (value, weight) in _weighed(grades, na_rule=na_rule).items()
    )


def weighted_sum(parts: Sequence[ScorePart]) -> float:
    """Sum of weight * value over the parts that apply."""
    return sum(part.weight * part.value for part in parts if part.value is not None)


def _weighed(
    grades: Mapping[str, float | None], *, na_rule: NaRule
) -> dict[str, tuple[float | None, float]]:
    """(value, weight) by dimension; the weights of those that apply sum to 1."""
    values = {name: grades[name] for name in WEIGHTS}
    if values["text_accuracy"] is None and na_rule == "paper":
        values["text_accuracy"] = PAPER_NA_VALUE
    total = sum(WEIGHTS[name] for name, value in values.items() if value is not None)
    return {
        name: (value, WEIGHTS[name] / total if value is not None else 0.0)
        for name, value in values.items()
    }
