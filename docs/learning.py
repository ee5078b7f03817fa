"""The tables and curves of docs/learning.md, from finished runs.

    python -m docs.learning runs/seed0 runs/seed1 runs/seed2

Prints the markdown tables and writes docs/images/learning.svg.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cluster.report.charts import COLOURS, Curve, curves_chart
from cluster.track.recorder import read_steps

PICTURE = Path(__file__).parent / "images" / "learning.svg"
STYLE = (
    "<style>text{font:11px sans-serif;fill:#5b6474}.title{font-size:13px;font-weight:600;"
    "fill:#1f2430}.mid{text-anchor:middle}.end{text-anchor:end}.grid{stroke:#d9dee7}</style>"
    "<rect width='100%' height='100%' fill='white'/>"
)
SHOWN = (
    "reward",
    "text_reward",
    "image_reward",
    "faithfulness",
    "visual_correctness",
    "text_accuracy",
    "aesthetics",
    "valid_rate",
    "image_search_rate",
    "pick_accuracy",
    "pick_chance",
)


def main(folders: list[Path]) -> None:
    runs = {folder.name: json.loads((folder / "summary.json").read_text()) for folder in folders}
    sys.stdout.write("\n".join(_tables(runs)) + "\n")
    curves = [_curve(folder, runs[folder.name]) for folder in folders]
    title = "Mean reward of a step, one line per seed"
    svg = curves_chart(title, curves, unit=True).partition("</svg>")[0] + "</svg>"
    head, _, body = svg.partition(">")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(
        f"{head} xmlns='http://www.w3.org/2000/svg'>{STYLE}{body}".replace(
            "</svg>", f"{_legend(curves)}</svg>"
        )
    )


def _curve(folder: Path, summary: dict[str, Any]) -> Curve:
    points = [(row["step"], row["reward/mean"]) for row in read_steps(folder)]
    return Curve(label=f"seed {summary['seed']}", points=tuple(points))


def _legend(curves: list[Curve]) -> str:
    return "".join(
        f"<text x='380' y='{150 + 15 * i}' style='fill:{COLOURS[i]}'>{curve.label}</text>"
        for i, curve in enumerate(curves)
    )


def _tables(runs: dict[str, Any]) -> list[str]:
    lines = []
    for summary in runs.values():
        held = summary["heldout"]
        wall = summary["wall_s"]
        lines += [
            f"## Seed {summary['seed']}",
            "",
            f"{summary['steps']} steps, {wall['total']:.0f} s in all ({wall['start']:.0f} s start, "
            f"{wall['train']:.0f} s training, {wall['evaluate_before']:.0f} s and "
            f"{wall['evaluate_after']:.0f} s evaluation), peak memory "
            f"{summary['peak_memory_gib']} GiB, {held['after']['n']} held-out tasks scored, "
            f"{held['after']['failed']} failed.",
            "",
            "| metric | before | after | paired difference |",
            "|---|---|---|---|",
        ]
        for name in SHOWN:
            cells = [_cell(held[side].get(name), signed=side == "delta") for side in held]
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
        hops = held["after"]["by_hops"]
        lines += ["", "| hops | reward before | reward after |", "|---|---|---|"]
        for hop in hops:
            before = _cell(held["before"]["by_hops"][hop]["reward"])
            lines.append(f"| {hop} | {before} | {_cell(hops[hop]['reward'])} |")
        lines.append("")
    return lines


def _cell(value: dict[str, Any] | None, *, signed: bool = False) -> str:
    if value is None:
        return "none"
    shape = "+.3f" if signed else ".3f"
    low, high = value["ci95"]
    return f"{value['mean']:{shape}} [{low:{shape}}, {high:{shape}}]"


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
