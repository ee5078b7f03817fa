"""One step as a Gantt chart: a lane per kind of work, a bar per piece of work, inline SVG.

Bars of a lane that would lie over each other are put into rows, the next free one from the top: a
lane is as deep as its work ran side by side. Lanes that are deep have thin rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from cluster.report.charts import COLOURS, scale, svg, ticks

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 92, 128, 30, 30
GAP = 6
"""Between two lanes."""
ROW, LEAST, DEEPEST = 5, 18, 110
"""Pixels: of a row where there is room, and of a lane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One piece of work; seconds."""

    label: str
    start_s: float
    end_s: float


def gantt_chart(
    title: str, lanes: Mapping[str, Sequence[Bar]], *, start_s: float, end_s: float
) -> str:
    """Lanes in their order, the empty ones too; bars are cut at `start_s` and `end_s`."""
    inside = {
        lane: [bar for bar in bars if bar.end_s > start_s and bar.start_s < end_s]
        for lane, bars in lanes.items()
    }
    if not any(inside.values()):
        return f"<p class='empty'>{escape(title)}: nothing was recorded</p>"
    to_x = scale(0.0, end_s - start_s, LEFT, WIDTH - RIGHT)
    y, backs, drawn = TOP, [], []
    for number, (lane, bars) in enumerate(inside.items()):
        rows = rows_of(bars)
        depth = max(rows, default=0) + 1
        height = max(LEAST, min(DEEPEST, ROW * depth))
        backs.append(_back(lane, _sums(bars, depth), y=y, height=height))
        for bar, row in zip(bars, rows, strict=True):
            left = to_x(max(bar.start_s, start_s) - start_s)
            right = to_x(min(bar.end_s, end_s) - start_s)
            top, thick = y + row * height / depth, height / depth
            drawn.append(_bar(bar, left, right, top, thick, colour=COLOURS[number % len(COLOURS)]))
        y += height + GAP
    grid = [_tick(tick, to_x(tick), y - GAP) for tick in ticks(0.0, end_s - start_s, about=8)]
    body = "".join([*backs, *grid, *drawn])
    return svg(title, body, height=y - GAP + BOTTOM, width=WIDTH)


def _back(lane: str, sums: str, *, y: int, height: int) -> str:
    middle = y + height / 2 + 4
    return (
        f"<rect x='{LEFT}' y='{y}' width='{WIDTH - LEFT - RIGHT}' height='{height}' class='lane'/>"
        f"<text x='{LEFT - 10}' y='{middle:.1f}' class='label end'>{escape(lane)}</text>"
        f"<text x='{WIDTH - RIGHT + 10}' y='{middle:.1f}'>{sums}</text>"
    )


def _bar(bar: Bar, left: float, right: float, top: float, thick: float, *, colour: str) -> str:
    edge = min(1.0, thick / 5)
    return (
        f"<rect x='{left:.1f}' y='{top + edge / 2:.2f}' width='{max(right - left, 0.8):.1f}' "
        f"height='{thick - edge:.2f}' fill='{colour}'>"
        f"<title>{escape(bar.label)}: {bar.end_s - bar.start_s:.2f} s</title></rect>"
    )


def _tick(seconds: float, x: float, bottom: int) -> str:
    return (
        f"<line x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{bottom}' class='grid'/>"
        f"<text x='{x:.1f}' y='{bottom + 18}' class='tick mid'>{seconds:g} s</text>"
    )


def rows_of(bars: Sequence[Bar]) -> list[int]:
    """The row of each bar, the first that is free when it starts; bars in order of their start."""
    free_from_s: list[float] = []
    rows = []
    for bar in bars:
        row = next((n for n, at in enumerate(free_from_s) if at <= bar.start_s), None)
        if row is None:
            row = len(free_from_s)
            free_from_s.append(bar.end_s)
        else:
            free_from_s[row] = bar.end_s
        rows.append(row)
    return rows


def _sums(bars: Sequence[Bar], depth: int) -> str:
    if not bars:
        return "nothing"
    return f"{len(bars)}, {depth} at once" if depth > 1 else f"{len(bars)}"
