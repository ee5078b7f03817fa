"""Bars as long as their seconds, none over another one of its lane."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.report.gantt import Bar, gantt_chart, rows_of


def bar(start_s: float, end_s: float, label: str = "x") -> Bar:
    return Bar(label=label, start_s=start_s, end_s=end_s)


def bars_of(html: str) -> list[dict[str, float]]:
    """The drawn bars; lanes have a class, bars a colour."""
    names = ("x", "y", "width", "height")
    return [
        {name: float(rect.attrib[name]) for name in names}
        for rect in ElementTree.fromstring(html).iter("rect")
        if "fill" in rect.attrib
    ]


def test_bars_are_as_long_as_their_seconds_and_cut_at_the_step() -> None:
    lanes = {"rollout": [bar(90, 104)], "learn": [bar(104, 106)], "render": [bar(80, 99)]}
    html = gantt_chart("t", lanes, start_s=100, end_s=106)
    rollout, learn = bars_of(html)
    assert rollout["width"] == pytest.approx(2 * learn["width"], abs=0.2)
    assert learn["x"] == pytest.approx(rollout["x"] + rollout["width"], abs=0.2)
    assert re.findall(r">([^<>]*nothing[^<>]*)<", html) == ["nothing"], (
        "the lane stays, and says so"
    )


def test_what_runs_side_by_side_lies_in_rows() -> None:
    assert rows_of([bar(0, 4), bar(1, 2), bar(2, 5), bar(4, 6)]) == [0, 1, 1, 0]
    html = gantt_chart("t", {"judge": [bar(0, 4), bar(1, 2)]}, start_s=0, end_s=6)
    first, second = bars_of(html)
    assert second["y"] >= first["y"] + first["height"]
    assert "2, 2 at once" in html


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=12))
def test_no_two_bars_of_a_row_overlap(spans: list[tuple[int, int]]) -> None:
    bars = [bar(start, start + length) for start, length in sorted(spans)]
    rows = rows_of(bars)
    for row in set(rows):
        inside = [one for one, its in zip(bars, rows, strict=True) if its == row]
        assert all(a.end_s <= b.start_s for a, b in pairwise(inside))
    most = max((sum(b.start_s <= t < b.end_s for b in bars) for t in range(30)), default=0)
    assert len(set(rows)) == most


def test_labels_are_escaped_and_an_empty_step_says_so() -> None:
    html = gantt_chart("t", {"tool": [bar(0, 1, "<b>")]}, start_s=0, end_s=1)
    assert "<b>" not in html
    assert "nothing was recorded" in gantt_chart("t", {"tool": []}, start_s=0, end_s=1)
