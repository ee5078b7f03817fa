"""Which metrics docs/metrics.md leaves out; and which it names."""

import re
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/metrics.md"


def documented() -> tuple[str, ...]:
    """Patterns of whole names: a name without a slash is under the one before it."""
    names: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            break  # other tables
        if not line.startswith("| `"):
            continue
        folder = ""
        for name in re.findall(r"`([^`]+)`", line.split("|")[1]):
            name = name if "/" in name else f"{folder}/{name}"
            folder = name.rpartition("/")[0]
            names.append(name)
    return tuple(names)


def undocumented(metrics: Iterable[str]) -> list[str]:
    """Of these names of one step's row."""
    patterns = [re.sub(r"<\w+>|\*", r"[^/]+", name) for name in documented()]
    known = re.compile("|".join(patterns))
    return sorted(name for name in metrics if not known.fullmatch(name))
