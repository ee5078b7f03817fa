"""The live view of a run: one screen that says at a glance how far it is and what it waits for.

In: `Status` records, as often as they come. Out: a rich renderable. On a terminal it is drawn in
place; in a log (a submitted job, a pipe) one line is written per step instead.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.track.status import Status
from cluster.track.timeline import STAGES

REFRESHES_PER_S = 4
TREND_POINTS = 40
BAR_CELLS = 40
SHOWN_STAGES = 4
"""Of the last step, the longest ones."""
_BARS = "▁▂▃▄▅▆▇█"


class Screen:
    """Shows a run while the `with` block lasts.

    Example:
        with Screen(console, read_status=controller.status) as screen:
            while steps_left:
                report = controller.advance(steps=1)
                screen.step_done(report.metrics["reward/mean"])
    """

    def __init__(self, console: Console, *, title: str, read_status: Callable[[], Status]) -> None:
        self._console = console
        self._title = title
        self._read_status = read_status
        self._rewards: list[float] = []
        self._started_s = time.monotonic()
        self._ends_s: list[float] = []
        """When each step was done."""
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=REFRESHES_PER_S,
            transient=False,
        )

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def step_done(self, reward: float | None) -> None:
        """One optimizer step is done; its mean reward joins the trend."""
        self._ends_s.append(time.monotonic())
        if reward is not None:
            self._rewards.append(reward)
        if not self._console.is_terminal:
            status = self._read_status()
            shown = "none" if reward is None else f"{reward:.3f}"
            left = _minutes(self._seconds_left(status))
            self._console.print(
                f"step {status.step}/{status.total_steps} reward {shown} "
                f"tools {status.tool_calls} cached {status.cached_tool_calls} left {left}"
            )

    def _draw(self) -> RenderableType:
        status = self._read_status()
        return draw_status(
            status,
            title=self._title,
            rewards=self._rewards,
            elapsed_s=time.monotonic() - self._started_s,
            left_s=self._seconds_left(status),
        )

    def _seconds_left(self, status: Status) -> float | None:
        """By the pace of the steps done so far; None before there are two."""
        if len(self._ends_s) < 2:
            return None
        per_step = (self._ends_s[-1] - self._ends_s[0]) / (len(self._ends_s) - 1)
        since_s = time.monotonic() - self._ends_s[-1]
        return max(0.0, per_step * (status.total_steps - status.step) - since_s)


def draw_status(
    status: Status,
    *,
    title: str,
    rewards: Sequence[float],
    elapsed_s: float,
    left_s: float | None,
) -> RenderableType:
    """One frame of the screen."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column(ratio=1)
    bar = ProgressBar(total=max(status.total_steps, 1), completed=status.step, width=40)
    table.add_row("step", Group(Text(f"{status.step} of {status.total_steps}"), bar))
    table.add_row("reward", _reward_line(rewards, status))
    table.add_row("waits for", _waiting_line(status))
    table.add_row("in flight", _stage_bars(status))
    table.add_row("groups", f"{status.groups_finished} of {status.groups_per_step} ready")
    if status.last_metrics:
        table.add_row("last step", _last_step_line(status.last_metrics))
    table.add_row("tools", _tools_line(status))
    if status.failures:
        table.add_row("failures", _counts(status.failures))
    if dollars := status.last_metrics.get("dollars/run"):
        table.add_row("dollars", f"{dollars:.2f} so far")
    table.add_row("time", f"{_minutes(elapsed_s)} gone, {_minutes(left_s)} left")
    return Panel(table, title=f"gensearcher: {title}", border_style="blue", width=84)


def sparkline(values: Sequence[float]) -> str:
    """The last values as bars between their own minimum and maximum."""
    recent = list(values)[-TREND_POINTS:]
    if not recent:
        return ""
    low, span = min(recent), (max(recent) - min(recent)) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in recent)


def _reward_line(rewards: Sequence[float], status: Status) -> Text:
    line = Text()
    if rewards:
        line.append(f"{rewards[-1]:.3f}", style="bold")
        line.append(f"  {sparkline(rewards)}  ", style="green")
        if len(rewards) > 1:
            line.append(f"{rewards[-1] - rewards[0]:+.3f} since the first", style="dim")
    elif status.reward is not None:
        line.append(f"{status.reward:.3f} so far in this step")
    else:
        line.append("no score yet", style="dim")
    return line


def _waiting_line(status: Status) -> Text:
    line = Text(status.stage, style="bold yellow")
    if status.oldest_item:
        line.append(f"  oldest: {status.oldest_item}, {status.oldest_age_s:.0f} s", style="dim")
    return line


def _stage_bars(status: Status) -> Table:
    """How much of each kind of work is under way; what the run waits for stands out."""
    bars = Table.grid(padding=(0, 1))
    bars.add_column(width=max(map(len, STAGES)))
    bars.add_column(justify="right", width=4)
    bars.add_column(width=BAR_CELLS)
    most = max((status.in_flight.get(kind, 0) for kind in STAGES), default=0)
    for kind in STAGES:
        number = status.in_flight.get(kind, 0)
        style = "bold yellow" if kind == status.stage else "cyan" if number else "dim"
        cells = -(-number * BAR_CELLS // max(most, BAR_CELLS))  # one each, as long as they fit
        bars.add_row(Text(kind, style), Text(str(number or ""), style), Text("━" * cells, style))
    return bars


def _last_step_line(metrics: Mapping[str, float]) -> Text:
    """Where its seconds went, the longest stage first; stages overlap."""
    seconds = {kind: metrics.get(f"seconds/{kind}", 0.0) for kind in STAGES}
    longest = sorted(seconds, key=lambda kind: seconds[kind], reverse=True)[:SHOWN_STAGES]
    line = Text(f"{metrics.get('seconds/step', 0.0):.1f} s", style="bold")
    parts = [f"{kind} {seconds[kind]:.1f}" for kind in longest if seconds[kind] >= 0.05]
    line.append(f"  {'  '.join(parts)}", style="dim")
    return line


def _tools_line(status: Status) -> str:
    if not status.tool_calls:
        return "0 calls"
    share = status.cached_tool_calls / status.tool_calls
    return f"{status.tool_calls} calls, {share:.0%} from the cache"


def _counts(counts: Mapping[str, int]) -> Text:
    return Text("  ".join(f"{name} {counts[name]}" for name in sorted(counts) if counts[name]))


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
