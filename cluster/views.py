"""The doctor's findings, a plan, a comparison, a mismatch and an audit, drawn for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.check.doctor import CheckResult
from cluster.plan.plan import Plan
from cluster.plan.rates import Figure
from cluster.report.compare import Comparison, verdict

COLOURS = {"good": "green", "bad": "red", "": ""}


def draw_checks(results: Sequence[CheckResult]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for result in results:
        mark = Text("ok", "green") if result.ok else Text("missing", "bold red")
        found = Text(result.detail)
        if result.mend:
            found.append(f"\n{result.mend}", "yellow")
        table.add_row(mark, Text(result.name), found)
    return table


def draw_plan(plan: Plan) -> RenderableType:
    host = f"{plan.host_bytes / 2**30:,.3g} GiB"
    return Group(
        Text(f"{plan.recipe}: {plan.num_gpus:g} GPUs, {plan.num_cpus:g} CPUs\n", "bold"),
        _placement_table(plan),
        Text("\nmemory", "bold"),
        _figure_grid(plan.memory),
        Text(f"all (host), were it one node: {host}"),
        Text("\nseconds of one step", "bold"),
        _figure_grid(plan.seconds),
        Text(
            f"one stage after the other: {plan.step_s:,.3g} s; in a run they overlap, because "
            "groups are rendered and judged as they end"
        ),
    )


def draw_memory(plan: Plan) -> RenderableType:
    """One line, for the start of a run."""
    places = (f"{where} {size / 2**30:.3g}" for where, size in plan.memory_by_place.items())
    return Text(f"planned memory, GiB: {', '.join(places)}", "dim")


def draw_comparison(found: Comparison) -> RenderableType:
    names = (escape(found.a), escape(found.b))  # of folders: brackets in them are no markup
    table = Table("metric", *names, "difference", "95% interval", "n")
    for line in found.lines:
        if line.group:
            continue
        low, high = line.difference.ci95
        table.add_row(
            line.metric,
            f"{line.mean_a:.3f}",
            f"{line.mean_b:.3f}",
            Text(f"{line.difference.mean:+.3f}", COLOURS[line.sign]),
            f"{low:+.3f} .. {high:+.3f}",
            str(line.difference.n),
        )
    warnings = (Text(warning, "yellow") for warning in found.warnings)
    return Group(Text(verdict(found), "bold"), *warnings, table)


def draw_audit(found: Mapping[str, Any]) -> RenderableType:
    """`found` is what `cluster.check.audit.audit_json` gives."""
    table = Table.grid(padding=(0, 2))
    for name, value in found.items():
        if name != "found":
            bad = name in found["found"] and value
            table.add_row(name, Text(str(value), "bold red" if bad else ""))
            if bad:
                table.add_row("", Text(", ".join(map(str, found["found"][name]))))
    return table


def draw_mismatch(found: Mapping[str, Any]) -> RenderableType:
    """`found` is what `cluster.check.mismatch.mismatch_json` gives."""
    table = Table("|learner - rollout| of log-probs", "tokens", "mean", "max")
    for name, title in (
        ("text", "text"),
        ("after_image", "after an image"),
        ("blanked", "the same, its pixels blanked"),
    ):
        one = found[name]
        table.add_row(title, str(one["num_tokens"]), f"{one['mean']:.3g}", f"{one['max']:.3g}")
    problems = [Text(problem, "bold red") for problem in found["problems"]]
    return Group(table, *(problems or [Text("rollout and learner agree", "green")]))


def _placement_table(plan: Plan) -> Table:
    table = Table("actor", "count", "CPU each", "GPU each", "holds", title="placement")
    for place in plan.placements:
        asks = (str(place.count), f"{place.cpus:g}", f"{place.gpus:g}")
        table.add_row(place.role, *asks, place.holds)
    return table


def _figure_grid(figures: Sequence[Figure]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for column in ({"min_width": 16}, {"min_width": 10, "justify": "right"}, {}):
        grid.add_column(**column)
    place = ""
    for figure in figures:
        if figure.what and figure.where != place:
            grid.add_row(Text(figure.where, "cyan"))
            place = figure.where
        how = Text(figure.formula)
        how.append(f"\n{figure.source}", "dim")
        grid.add_row(f"  {figure.what}" if figure.what else figure.where, _value(figure), how)
    return grid


def _value(figure: Figure) -> str:
    if figure.unit == "s":
        return f"{figure.value:,.3g} s"
    return f"{figure.value / 2**30:,.3g} GiB"
