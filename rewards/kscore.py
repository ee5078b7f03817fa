"""K-Score of one image, from a judge's verdict (arXiv 2603.28767, section 4.2).

K = 0.1 faithfulness + 0.4 visual correctness + 0.4 text accuracy + 0.1 aesthetics, each in
{0, 0.5, 1}. When no text is asked for, one of two rules decides: `renormalise` spreads the weight
over the three other dimensions; `paper` counts text accuracy as 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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


def kscore_parts(
    verdict: ImageVerdict, *, na_rule: NaRule, provenance: Provenance
) -> tuple[ScorePart, ...]:
    """The four dimensions with the weights that make up K; K = sum of weight * value.

    A dimension that does not apply under `renormalise` has value None and weight 0.
    """
    values: dict[str, float | None] = {name: getattr(verdict, name) for name in WEIGHTS}
    if values["text_accuracy"] is None and na_rule == "paper":
        values["text_accuracy"] = PAPER_NA_VALUE
    total = sum(WEIGHTS[name] for name, value in values.items() if value is not None)
    return tuple(
        ScorePart(
            name=name,
            value=value,
            weight=WEIGHTS[name] / total if value is not None else 0.0,
            rationale=verdict.rationale,
            provenance=provenance,
        )
        for name, value in values.items()
    )


def weighted_sum(parts: Sequence[ScorePart]) -> float:
    """Sum of weight * value over the parts that apply."""
    return sum(part.weight * part.value for part in parts if part.value is not None)


def average_renders(renders: Sequence[tuple[ScorePart, ...]]) -> tuple[ScorePart, ...]:
    """One set of parts from several renders of the same answer: values and weights averaged.

    Weights are averaged too, so the weighted sum of the result equals the mean of the renders'
    weighted sums whenever a dimension applies to all renders or to none.
    Raises ValueError when there is no render.
    """
    if not renders:
        raise ValueError("no render to average")
    if len(renders) == 1:
        return renders[0]
    return tuple(_average(parts) for parts in zip(*renders, strict=True))


def _average(parts: tuple[ScorePart, ...]) -> ScorePart:
    values = [part.value for part in parts if part.value is not None]
    rationale = " | ".join(dict.fromkeys(part.rationale for part in parts))
    return replace(
        parts[0],
        value=sum(values) / len(values) if values else None,
        weight=sum(part.weight for part in parts) / len(parts),
        rationale=rationale,
    )
