"""Charts are well-formed SVG, keep their points inside the frame, and escape labels."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.report.charts import (
    Curve,
    Difference,
    Interval,
    curves_chart,
    forest_chart,
    ticks,
)


def _svg(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.split("</svg>")[0] + "</svg>")


def test_a_curve_spans_the_frame_and_labels_are_escaped() -> None:
    curve = Curve(label="<b>", points=((0, 0.0), (10, 1.0)))
    point = Interval(label="held-out", x=10, mean=0.5, low=0.4, high=0.6)
    html = curves_chart("reward & more", [curve], intervals=[point], unit=True)
    line = _svg(html).find("polyline")
    assert line is not None
    assert line.attrib["points"] == "44.0,196.0 448.0,26.0"
    assert "<b>" not in html
    assert "reward &amp; more" in html


def test_nothing_recorded_says_so() -> None:
    assert "nothing was recorded" in curves_chart("reward", [])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 12
    slack = span * 1e-3 + abs(low) * 1e-6 + 1e-9
    assert all(low - slack <= tick <= low + span + slack for tick in found)


def test_a_forest_plot_tells_gains_from_losses_and_cuts_long_labels() -> None:
    rows = [
        Difference(label="gain", mean=0.2, low=0.1, high=0.3, n=5, sign="good"),
        Difference(label="loss <b>", mean=-0.2, low=-0.3, high=-0.1, n=5, sign="bad"),
        Difference(label="x" * 60, mean=0.0, low=-0.1, high=0.1, n=5, sign=""),
    ]
    html = forest_chart("B less A", rows)
    svg = _svg(html)

    dots = [circle.attrib["class"].split() for circle in svg.iter("circle")]
    assert dots == [["dot", "good"], ["dot", "bad"], ["dot"]]
    gain, loss, none = (float(circle.attrib["cx"]) for circle in svg.iter("circle"))
    assert loss < none < gain
    zero = next(line for line in svg.iter("line") if line.attrib["class"] == "zero")
    assert float(zero.attrib["x1"]) == pytest.approx(none, abs=0.1)
    shown = [text.text or "" for text in svg.iter("text")]
    assert all(len(text) <= 28 for text in shown)
    assert "<b>" not in html


@given(st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 3).map(sorted), min_size=1, max_size=6))
def test_intervals_of_any_size_stay_inside_the_forest_plot(bounds: list[list[float]]) -> None:
    rows = [
        Difference(label="m", mean=mean, low=low, high=high, n=1, sign="")
        for low, mean, high in bounds
    ]
    for line in _svg(forest_chart("t", rows)).iter("line"):
        assert 0 <= float(line.attrib["x1"]) <= float(line.attrib["x2"]) <= 560 - 160
