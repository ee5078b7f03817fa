"""From rows to the table, by numbers worked out by hand."""

from collections.abc import Mapping

import pytest

from cluster.bench.rows import RowResult
from cluster.bench.rules import Rules, knowgen_rules, nano_rules, wise_rules
from cluster.bench.summary import BenchSummary, summarise
from core.protocols import ImageVerdict
from core.records import Failure, Stage
from rewards.aggregate import ScoredRow, knowgen_aggregate
from rewards.wise import wise_aggregate
from tests.builders import make_failure
from tests.builders_bench import make_item, make_played, make_result

PERFECT = {
    "faithfulness": 1.0,
    "visual_correctness": 1.0,
    "text_accuracy": 1.0,
    "aesthetics": 1.0,
}
POOR = {"faithfulness": 0.5, "visual_correctness": 0.0, "text_accuracy": 0.5, "aesthetics": 1.0}
WORDLESS = {
    "faithfulness": 1.0,
    "visual_correctness": 0.5,
    "text_accuracy": None,
    "aesthetics": 0.0,
}
LOST = make_failure(Stage.JUDGE, error_type="HTTP 500")


def row(
    ordinal: int, outcome: Mapping[str, float | None] | Failure, category: str = "biology"
) -> RowResult:
    return make_result(outcome, item=make_item(ordinal, category=category))


def score(summary: BenchSummary, figure: str = "skip") -> float:
    mean: float = getattr(summary.overall, figure)["score"].mean
    return round(mean, 6)


def test_a_group_is_the_mean_of_its_k_scores_and_the_whole_that_of_the_groups() -> None:
    # POOR: 0.05 + 0 + 0.2 + 0.1 = 0.35. WORDLESS over 0.6: (0.1 + 0.2 + 0) / 0.6 = 0.5.
    rows = [row(0, PERFECT), row(1, POOR), row(2, WORDLESS, "anime")]
    summary = summarise(rows, rules=knowgen_rules("renormalise"), missing="skip")

    pop, science = summary.groups
    assert (science.name, science.n) == ("science_and_knowledge", 2)
    assert science.skip["score"].mean == pytest.approx(0.675)
    assert pop.skip["score"].mean == pytest.approx(0.5)
    assert score(summary) == pytest.approx((0.675 + 0.5) / 2)
    assert "text_accuracy" not in pop.skip
    assert summary.overall.skip["text_accuracy"].mean == pytest.approx(0.75)
    assert summary.overall.skip["text_accuracy"].n == 2


def test_the_papers_rule_is_the_formula_on_the_means() -> None:
    # Science: f .75, v .5, t .75 (two rows), a 1 -> .075 + .2 + .3 + .1 = .675.
    # Pop: f 1, v .5, no text -> .5, a 0 -> .1 + .2 + .2 + 0 = .5.
    rows = [row(0, PERFECT), row(1, POOR), row(2, WORDLESS, "anime")]
    summary = summarise(rows, rules=knowgen_rules("paper"), missing="skip")

    pop, science = summary.groups
    assert science.skip["score"].mean == pytest.approx(0.675)
    assert pop.skip["score"].mean == pytest.approx(0.5)
    mixed = summarise(
        [row(0, PERFECT), row(1, WORDLESS)], rules=knowgen_rules("paper"), missing="skip"
    )
    # f 1, v .75, t 1 (one row), a .5 -> .1 + .3 + .4 + .05 = .85; the mean of K-Scores is .75.
    assert score(mixed) == pytest.approx(0.85)


@pytest.mark.parametrize("na_rule", ["paper", "renormalise"])
def test_the_table_agrees_with_the_published_aggregate(na_rule: str) -> None:
    outcomes = [PERFECT, POOR, WORDLESS, POOR, PERFECT, WORDLESS, POOR]
    categories = ["biology", "art", "art", "news", "anime", "film", "news"]
    rows = [row(n, g, c) for n, (g, c) in enumerate(zip(outcomes, categories, strict=True))]
    verdicts = [
        ScoredRow(category=c, verdict=ImageVerdict(rationale="", **g))  # type: ignore[arg-type]
        for g, c in zip(outcomes, categories, strict=True)
    ]
    made = knowgen_aggregate(verdicts, na_rule=na_rule)  # type: ignore[arg-type]
    summary = summarise(rows, rules=knowgen_rules(na_rule), missing="skip")  # type: ignore[arg-type]

    assert score(summary) == pytest.approx(made.overall.overall)
    for line in summary.groups:
        assert line.skip["score"].mean == pytest.approx(made.groups[line.name].overall)
        assert line.skip["text_accuracy"].mean == pytest.approx(
            made.groups[line.name].text_accuracy
        )


def test_a_missing_score_is_left_out_or_zero_and_both_are_shown() -> None:
    rows = [row(0, PERFECT), row(1, LOST), row(2, PERFECT, "anime"), row(3, POOR, "anime")]
    rules = knowgen_rules("renormalise")
    zero = summarise(rows, rules=rules, missing="zero")

    assert (zero.n, zero.scored, zero.failed) == (4, 3, 1)
    assert score(zero, "skip") == pytest.approx((1.0 + 0.675) / 2)
    assert score(zero, "zero") == pytest.approx((0.5 + 0.675) / 2)
    assert zero.causes == {"judge: HTTP 500": 1}
    assert zero.headline == zero.overall.zero["score"]
    assert summarise(rows, rules=rules, missing="skip").headline == zero.overall.skip["score"]
    assert summarise(rows, rules=rules, missing="fail").headline is None
    assert summarise(rows[:1], rules=rules, missing="fail").headline is not None


def test_wise_weighs_its_six_categories_and_needs_them_all() -> None:
    ids = {"culture": 1, "time": 401, "space": 568, "biology": 701, "physics": 801}
    grades = {"consistency": 2.0, "realism": 1.0, "aesthetic_quality": 0.0}  # (1.4 + .2) / 2 = .8
    nothing = dict.fromkeys(grades, 0.0)
    rows = [row(n, nothing, name) for name, n in ids.items()]
    rows.append(row(2, grades, "culture"))
    rules = wise_rules("legacy")

    assert "score" not in summarise(rows, rules=rules, missing="skip").overall.skip
    rows.append(row(901, grades, "chemistry"))
    summary = summarise(rows, rules=rules, missing="skip")
    assert score(summary) == pytest.approx(0.4 * 0.4 + 0.1 * 0.8)
    values = [(n, 0.0) for n in ids.values()] + [(2, 0.8), (901, 0.8)]
    assert score(summary) == pytest.approx(wise_aggregate(values, edition="legacy").overall)


def test_the_nano_worlds_score_is_the_reward_of_training() -> None:
    rows = [row(0, WORDLESS | {"text_reward": 0.75}), row(1, PERFECT | {"text_reward": 0.25})]
    rules = nano_rules("renormalise", text_weight=0.5)
    # (0.5 + 0.75) / 2 = .625 and (1 + .25) / 2 = .625
    assert score(summarise(rows, rules=rules, missing="zero")) == pytest.approx(0.625)


def test_an_interval_holds_its_mean_and_narrows_with_more_rows() -> None:
    def width(rows: list[RowResult]) -> float:
        low, high = (found := summarise(rows, rules=rules, missing="zero").headline).ci95
        assert low <= found.mean <= high
        return high - low

    rules: Rules = knowgen_rules("renormalise")
    few = [row(n, PERFECT if n % 2 else POOR) for n in range(10)]
    many = [row(n, PERFECT if n % 2 else POOR) for n in range(200)]
    # of 200 rows of 1 and .35: 2 x 1.96 x .325 / sqrt(200) = .09
    assert width(many) == pytest.approx(0.09, abs=0.01)
    assert width(many) < width(few)


def test_fallbacks_broken_tools_and_costs_are_counted() -> None:
    odd = make_played(fallback="no answer", tool_errors=("down",), cost_usd=0.5)
    rows = [make_result(played=odd), make_result(played=make_played(values={"tool_calls": 3.0}))]
    summary = summarise(rows, rules=knowgen_rules("renormalise"), missing="zero")

    assert (summary.fallbacks, summary.flagged) == (1, 1)
    assert summary.cost_usd == pytest.approx(0.5 + 2 * 0.25)
    assert (summary.episode["tool_calls"].mean, summary.episode["tool_calls"].n) == (3.0, 1)


def test_a_row_that_no_stage_reached_says_so() -> None:
    unplayed = RowResult(item=make_item(), agent=None, render=None, judge=None)
    summary = summarise([unplayed], rules=knowgen_rules("paper"), missing="zero")

    assert (summary.causes, summary.failed, summary.not_run) == ({"agent: not run": 1}, 0, 1)
    assert summary.headline is None
    half = summarise([unplayed, row(1, PERFECT)], rules=knowgen_rules("paper"), missing="zero")
    assert half.headline is not None
    assert half.headline.mean == 0.5, "no row is dropped in silence, also not one that was not run"
