"""Small inline SVG charts: curves with held-out points, a forest plot.

In: plain numbers. Out: SVG text that needs no script and no file beside it. Labels are escaped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#64748b")

Sign = Literal["good", "bad", ""]

LABEL_CHARS = 28
"""Of a row of a forest plot; the whole label is in its tooltip."""

_WIDTH, _HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 26, 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line: (x, y) points in order of x."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A point with its interval, drawn over the curves."""

    label: str
    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One row of a forest plot: a difference and its interval."""

    label: str
    mean: float
    low: float
    high: float
    n: int
    sign: Sign
    """Its colour; "" where it may be chance."""


def curves_chart(
    title: str, curves: Sequence[Curve], *, intervals: Sequence[Interval] = (), unit: bool = False
) -> str:
    """Lines over training steps. `unit` fixes the y axis to [0, 1]."""
    xs = [x for curve in curves for x, _ in curve.points] + [i.x for i in intervals]
    ys = [y for curve in curves for _, y in curve.points]
    ys += [bound for i in intervals for bound in (i.low, i.high)]
    if not xs:
        return f"<p class='empty'>{escape(title)}: nothing was recorded</p>"
    y_low, y_high = (0.0, 1.0) if unit else _padded(min(ys), max(ys))
    to_x = scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    to_y = scale(y_low, y_high, _HEIGHT - _BOTTOM, _TOP)
    body = [_axes(to_x, to_y, x_range=(min(xs), max(xs)), y_range=(y_low, y_high))]
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in curve.points)
        body.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
    for interval in intervals:
        body.append(_interval_mark(interval, to_x, to_y))
    return svg(title, "".join(body), height=_HEIGHT, width=_WIDTH) + _legend(curves)


def forest_chart(title: str, rows: Sequence[Difference]) -> str:
    """One row per difference, its interval on a common axis around zero."""
    if not rows:
        return f"<p class='empty'>{escape(title)}: nothing to compare</p>"
    width, right, row = 560, 160, 24
    longest = max(len(_short(one.label)) for one in rows)
    left = 20 + int(6.6 * max(longest, 8))
    bottom = _TOP + row * len(rows)
    reach = max(max(abs(one.low), abs(one.high)) for one in rows) * 1.05 or 1.0
    to_x = scale(-reach, reach, left, width - right)
    body = []
    for tick in ticks(-reach, reach, about=4):
        x, kind = to_x(tick), "zero" if tick == 0 else "grid"
        body.append(
            f"<line x1='{x:.1f}' y1='{_TOP}' x2='{x:.1f}' y2='{bottom}' class='{kind}'/>"
            f"<text x='{x:.1f}' y='{bottom + 16}' class='tick mid'>{_signed(tick)}</text>"
        )
    for index, one in enumerate(rows):
        body.append(_forest_row(one, to_x, y=_TOP + row * index + row / 2, edge=(left, width)))
    return svg(title, "".join(body), height=bottom + 24, width=width)


def _forest_row(
    one: Difference, to_x: Callable[[float], float], *, y: float, edge: tuple[int, int]
) -> str:
    numbers = f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
    left, right = edge
    label = escape(_short(one.label))
    return (
        f"<text x='{left - 10}' y='{y + 4:.1f}' class='label end'>{label}</text>"
        f"<line x1='{to_x(one.low):.1f}' y1='{y:.1f}' x2='{to_x(one.high):.1f}' y2='{y:.1f}' "
        f"class='bar {one.sign}'/>"
        f"<circle cx='{to_x(one.mean):.1f}' cy='{y:.1f}' r='4' class='dot {one.sign}'>"
        f"<title>{escape(one.label)}: {numbers}, {one.n} tasks</title></circle>"
        f"<text x='{right - 4}' y='{y + 4:.1f}' class='tick end'>{numbers}</text>"
    )


def _axes(
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> str:
    marks = []
    for tick in ticks(*y_range):
        y = to_y(tick)
        marks.append(
            f"<line x1='{_LEFT}' y1='{y:.1f}' x2='{_WIDTH - _RIGHT}' y2='{y:.1f}' class='grid'/>"
            f"<text x='{_LEFT - 6}' y='{y + 4:.1f}' class='tick end'>{_label(tick)}</text>"
        )
    for tick in ticks(*x_range):
        marks.append(
            f"<text x='{to_x(tick):.1f}' y='{_HEIGHT - 14}' class='tick mid'>{tick:g}</text>"
        )
    return "".join(marks)


def _interval_mark(
    interval: Interval, to_x: Callable[[float], float], to_y: Callable[[float], float]
) -> str:
    x, y = to_x(interval.x), to_y(interval.mean)
    return (
        f"<line x1='{x:.1f}' y1='{to_y(interval.low):.1f}' x2='{x:.1f}' "
        f"y2='{to_y(interval.high):.1f}' class='interval'/>"
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' class='point'>"
        f"<title>{escape(interval.label)}: {interval.mean:.3f} "
        f"[{interval.low:.3f}, {interval.high:.3f}]</title></circle>"
    )


def _legend(curves: Sequence[Curve]) -> str:
    items = "".join(
        f"<span><i style='background:{COLOURS[i % len(COLOURS)]}'></i>{escape(c.label)}</span>"
        for i, c in enumerate(curves)
    )
    return f"<div class='legend'>{items}</div>"


def svg(title: str, body: str, *, height: int, width: int) -> str:
    return (
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{escape(title)}'>"
        f"<text x='{_LEFT - 38}' y='16' class='title'>{escape(title)}</text>{body}</svg>"
    )


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def _short(label: str) -> str:
    return label if len(label) <= LABEL_CHARS else f"{label[: LABEL_CHARS - 1]}\u2026"


def _signed(tick: float) -> str:
    return f"{tick:+g}" if tick else "0"


def _label(tick: float) -> str:
    return f"{tick:g}".replace("e-0", "e-")


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round values inside [low, high], about `about` of them."""
    target = (high - low) / about
    if target < 1e-9:  # nothing to tell apart at ten places
        return [low]
    power = 10.0 ** math.floor(math.log10(target))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= target)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]
