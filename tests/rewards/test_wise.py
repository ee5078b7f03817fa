"""WISE's arithmetic in both editions, on cases worked out by hand."""

import pytest

from core.errors import DataError
from rewards.wise import (
    CATEGORY_WEIGHTS,
    WiseEdition,
    WiseVerdict,
    wise_aggregate,
    wise_category,
)


def test_a_legacy_score_weighs_its_three_grades() -> None:
    grades = {"consistency": 2, "realism": 1, "aesthetic_quality": 0}
    assert WiseVerdict(edition="legacy", grades=grades).value == pytest.approx((1.4 + 0.2) / 2)
    best = {"consistency": 2, "realism": 2, "aesthetic_quality": 2}
    assert WiseVerdict(edition="legacy", grades=best).value == pytest.approx(1.0)


def test_a_verified_score_is_itself() -> None:
    assert WiseVerdict(edition="verified", grades={"score": 1}).value == 1.0


@pytest.mark.parametrize(
    ("edition", "starts"),
    [("legacy", (1, 401, 568, 701, 801, 901)), ("verified", (1, 401, 521, 641, 761, 881))],
)
def test_categories_follow_from_the_ids(edition: WiseEdition, starts: tuple[int, ...]) -> None:
    names = ("culture", "time", "space", "biology", "physics", "chemistry")
    assert tuple(wise_category(start, edition=edition) for start in starts) == names
    lasts = (*(start - 1 for start in starts[1:]), 1000)
    assert tuple(wise_category(last, edition=edition) for last in lasts) == names
    for outside in (0, 1001, -5):
        with pytest.raises(DataError, match="1 to 1000"):
            wise_category(outside, edition=edition)


@pytest.mark.parametrize("edition", ["legacy", "verified"])
def test_the_weights_of_the_categories_sum_to_one(edition: WiseEdition) -> None:
    assert sum(CATEGORY_WEIGHTS[edition].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("edition", "ids", "expected"),
    [
        ("legacy", (1, 450, 600, 750, 850, 950), 0.4 * 0.5 + 0.167 * 1 + 0.133 * 0 + 0.1 * 1),
        ("verified", (1, 450, 600, 700, 800, 950), 0.4 * 0.5 + 0.12 * 1 + 0.12 * 1),
    ],
)
def test_the_whole_is_the_weighted_sum_of_category_means(
    edition: WiseEdition, ids: tuple[int, ...], expected: float
) -> None:
    culture, time, space, biology, physics, chemistry = ids
    scores = [(culture, 1.0), (culture + 1, 0.0), (time, 1.0), (space, 0.0), (biology, 1.0)]
    result = wise_aggregate([*scores, (physics, 0.0), (chemistry, 0.0)], edition=edition)

    assert result.categories["culture"].mean == 0.5
    assert result.categories["culture"].count == 2
    assert result.overall == pytest.approx(expected)


def test_without_a_category_there_is_no_whole() -> None:
    result = wise_aggregate([(1, 1.0)], edition="verified")
    assert (tuple(result.categories), result.overall) == (("culture",), None)
