"""What docs/metrics.md says of a step's metrics: which it promises, and which it leaves out."""

import re
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/metrics.md"
ALWAYS, SOMETIMES = "In every step", "In some steps"
MAY_BE_ABSENT = frozenset({"dollars/per_reward_point"})
"""Of those of every step; the page says when."""


def promised() -> frozenset[str]:
    """Names that every step's row has."""
    return frozenset(names_of(ALWAYS)) - MAY_BE_ABSENT


def undocumented(metrics: Iterable[str]) -> list[str]:
    """Of these names of one step's row."""
    known = {*names_of(ALWAYS), *names_of(SOMETIMES)}
    return sorted(name for name in metrics if re.sub(r"of_\d+$", "of_0", name) not in known)


def names_of(section: str) -> tuple[str, ...]:
    """In the first column of the section's table."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"## {section}\n")
    rows = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return tuple(name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1]))
