"""KnowGen's table from verdicts: means of two category groups, and their unweighted mean.

In: rows of (category, verdict) and a rule for rows whose prompt asks for no text. Out: one frozen
record that carries the rule. Rows that failed are not rows: the caller says what became of them.

paper        a group's means of faithfulness, visual correctness and aesthetics are over all its
             rows, that of text accuracy over the rows with text (0.5 if there is none); the
             group's score is the formula on these means (arXiv 2603.28767, section 4.2).
renormalise  the same means (text accuracy is None if there is none); the group's score is the
             mean of its rows' own K-Scores, each over the dimensions that apply to it.

The overall line is the unweighted mean of the groups that have rows, dimension by dimension.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from core.benchmarks import CATEGORY_GROUPS
from core.errors import DataError
from core.protocols import ImageVerdict
from rewards.kscore import PAPER_NA_VALUE, WEIGHTS, NaRule, kscore


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRow:
    category: str
    verdict: ImageVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class KScoreMeans:
    """One line of the table; every number is in [0, 1]."""

    faithfulness: float
    visual_correctness: float
    text_accuracy: float | None
    """None: no row asks for text, under `renormalise`."""
    aesthetics: float
    overall: float
    count: int
    num_with_text: int
    """Rows that the mean of text accuracy is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowGenAggregate:
    na_rule: NaRule
    groups: Mapping[str, KScoreMeans]
    """By name of the group (core/benchmarks.py); a group without rows is absent."""
    overall: KScoreMeans


def knowgen_aggregate(rows: Iterable[ScoredRow], *, na_rule: NaRule) -> KnowGenAggregate:
    """Raises DataError for a category that KnowGen does not have, and when there are no rows."""
    by_group: dict[str, list[ImageVerdict]] = {}
    for row in rows:
        group = CATEGORY_GROUPS.get(row.category.strip().lower())
        if group is None:
            raise DataError(
                f"meta.category {row.category!r} is none of KnowGen's; "
                f"known are {', '.join(sorted(CATEGORY_GROUPS))}"
            )
        by_group.setdefault(group, []).append(row.verdict)
    groups = {name: kscore_means(v, na_rule=na_rule) for name, v in sorted(by_group.items())}
    return KnowGenAggregate(
        na_rule=na_rule, groups=groups, overall=mean_of_groups(tuple(groups.values()))
    )


def kscore_means(verdicts: Sequence[ImageVerdict], *, na_rule: NaRule) -> KScoreMeans:
    """One group of rows, of any categories. Raises DataError when there are none."""
    if not verdicts:
        raise DataError("there is no scored row to average over")
    texts = [v.text_accuracy for v in verdicts if v.text_accuracy is not None]
    means: dict[str, float | None] = {
        name: _mean([getattr(verdict, name) for verdict in verdicts])
        for name in WEIGHTS
        if name != "text_accuracy"
    }
    means["text_accuracy"] = _mean(texts) if texts else None
    if na_rule == "paper":
        if not texts:
            means["text_accuracy"] = PAPER_NA_VALUE
        overall = kscore(means, na_rule=na_rule)
    else:
        overall = _mean([kscore(grades_of(verdict), na_rule=na_rule) for verdict in verdicts])
    return _line(means, overall=overall, count=len(verdicts), num_with_text=len(texts))


def mean_of_groups(groups: Sequence[KScoreMeans]) -> KScoreMeans:
    """Unweighted, so that a large group does not drown a small one; counts are summed."""
    if not groups:
        raise DataError("there is no scored row to average over")
    means: dict[str, float | None] = {}
    for name in WEIGHTS:
        values = [value for group in groups if (value := getattr(group, name)) is not None]
        means[name] = _mean(values) if values else None
    return _line(
        means,
        overall=_mean([group.overall for group in groups]),
        count=sum(group.count for group in groups),
        num_with_text=sum(group.num_with_text for group in groups),
    )


def grades_of(verdict: ImageVerdict) -> dict[str, float | None]:
    """The four grades by the names of the weights."""
    return {name: getattr(verdict, name) for name in WEIGHTS}


def _line(
    means: Mapping[str, float | None], *, overall: float, count: int, num_with_text: int
) -> KScoreMeans:
    faithfulness, visual, aesthetics = (
        means[name] for name in ("faithfulness", "visual_correctness", "aesthetics")
    )
    assert faithfulness is not None
    assert visual is not None
    assert aesthetics is not None
    return KScoreMeans(
        faithfulness=faithfulness,
        visual_correctness=visual,
        text_accuracy=means["text_accuracy"],
        aesthetics=aesthetics,
        overall=overall,
        count=count,
        num_with_text=num_with_text,
    )


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)
