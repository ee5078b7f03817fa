"""How a benchmark's grades become its numbers: per row, per line of its table, over all.

In: grades by name. Out: one `Rules` record per benchmark. Pure data and arithmetic, so that a new
rule re-reads old verdicts and calls nobody. K-Score and WISE's own formulas stand in rewards/.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

from core.benchmarks import CATEGORY_GROUPS
from rewards.kscore import PAPER_NA_VALUE, WEIGHTS, NaRule, kscore
from rewards.reward import TEXT_PART
from rewards.wise import CATEGORY_WEIGHTS, GRADE_WEIGHTS, TOP_GRADE, WiseEdition

SCORE = "score"
"""The name of the one number of a row, and of a line."""
NA_DIMENSION = "text_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Arithmetic of one benchmark."""

    weights: Mapping[str, float]
    """Of the dimensions in a row's score; they sum to 1."""
    top: float
    """The highest grade; numbers are shown as parts of it."""
    na_rule: NaRule | None
    """What becomes of a picture without text; None where every dimension always applies."""
    line_of_means: bool
    """True: a line's score is the formula on the line's means; False: the mean of row scores."""
    groups: Mapping[str, str]
    """Category -> group; empty: the benchmark has no groups."""
    overall: Mapping[str, float] | None
    """Weight of each part (group, else category) in the whole; None: the mean over all rows."""
    needs_all_parts: bool = False
    """True: without one of the parts there is no whole; False: those that have rows share it."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def row_score(self, grades: Mapping[str, float | None]) -> float:
        """In [0, 1]."""
        values = {name: self.part(grades[name]) for name in self.weights}
        if self.na_rule == "paper" and values.get(NA_DIMENSION, 0.0) is None:
            values[NA_DIMENSION] = PAPER_NA_VALUE
        known = {name: value for name, value in values.items() if value is not None}
        if self.na_rule is not None:
            return self._blend(known)
        return fsum(self.weights[name] * value for name, value in known.items())

    def part(self, grade: float | None) -> float | None:
        return None if grade is None else grade / self.top

    def scores_of_means(self, means: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """The formula on means, elementwise; a mean of text over no row is NaN, and counts 0.5."""
        filled = {
            name: np.nan_to_num(values, nan=PAPER_NA_VALUE) if name == NA_DIMENSION else values
            for name, values in means.items()
        }
        return np.asarray(sum(self.weights[name] * filled[name] for name in self.weights))

    def _blend(self, known: Mapping[str, float]) -> float:
        """K-Score over what applies, blended with the text reward where there is one."""
        text_weight = self.weights.get(TEXT_PART, 0.0)
        image = kscore({name: known.get(name) for name in WEIGHTS}, na_rule="renormalise")
        return (1 - text_weight) * image + text_weight * known.get(TEXT_PART, 0.0)


def knowgen_rules(na_rule: NaRule) -> Rules:
    """Means of two category groups, and their unweighted mean (arXiv 2603.28767, section 4.2)."""
    return Rules(
        weights=WEIGHTS,
        top=1.0,
        na_rule=na_rule,
        line_of_means=na_rule == "paper",
        groups=CATEGORY_GROUPS,
        overall=dict.fromkeys(CATEGORY_GROUPS.values(), 0.5),
    )


def nano_rules(na_rule: NaRule, *, text_weight: float) -> Rules:
    """The reward of training, averaged over all tasks."""
    weights = {name: (1 - text_weight) * weight for name, weight in WEIGHTS.items()}
    if text_weight:
        weights[TEXT_PART] = text_weight
    return Rules(
        weights=weights, top=1.0, na_rule=na_rule, line_of_means=False, groups={}, overall=None
    )


def wise_rules(edition: WiseEdition) -> Rules:
    return Rules(
        weights=GRADE_WEIGHTS[edition],
        top=float(TOP_GRADE[edition]),
        na_rule=None,
        line_of_means=False,
        groups={},
        overall=CATEGORY_WEIGHTS[edition],
        needs_all_parts=True,
    )
