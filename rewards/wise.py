"""WISE's arithmetic and reply formats, in both editions (arXiv 2503.07265).

legacy    three grades in {0, 1, 2}; a prompt's WiScore is (0.7 consistency + 0.2 realism
          + 0.1 aesthetic quality) / 2; the whole is 0.4 culture + 0.167 time + 0.133 space + 0.1
          of each science.
verified  one score, 0 or 1; the whole is 0.4 culture + 0.12 of each of the other five.

A reply is JSON, or the lines that the benchmark's own prompts ask for ("Consistency: 2", ...;
"Score: 1"; or the bare numbers alone). Anything else is a JudgeError.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum
from typing import Literal

from core.errors import DataError
from core.protocols import Took
from rewards.replies import read_grade, read_object, read_rationale, refuse, without_thoughts

WiseEdition = Literal["legacy", "verified"]

GRADE_WEIGHTS: Mapping[WiseEdition, Mapping[str, float]] = {
    "legacy": {"consistency": 0.7, "realism": 0.2, "aesthetic_quality": 0.1},
    "verified": {"score": 1.0},
}
TOP_GRADE: Mapping[WiseEdition, int] = {"legacy": 2, "verified": 1}
CATEGORY_WEIGHTS: Mapping[WiseEdition, Mapping[str, float]] = {
    "legacy": {
        **{"culture": 0.4, "time": 0.167, "space": 0.133},
        **{"biology": 0.1, "physics": 0.1, "chemistry": 0.1},
    },
    "verified": {
        **{"culture": 0.4, "time": 0.12, "space": 0.12},
        **{"biology": 0.12, "physics": 0.12, "chemistry": 0.12},
    },
}
LAST_IDS: Mapping[WiseEdition, Mapping[str, int]] = {
    "legacy": {
        **{"culture": 400, "time": 567, "space": 700},
        **{"biology": 800, "physics": 900, "chemistry": 1000},
    },
    "verified": {
        **{"culture": 400, "time": 520, "space": 640},
        **{"biology": 760, "physics": 880, "chemistry": 1000},
    },
}
"""The last prompt_id of each category; ids are from 1 on, without a gap."""

_LABEL = re.compile(r"\*{0,2}([A-Za-z]+(?: [A-Za-z]+)?)\*{0,2}\s*:?\s*\*{0,2}\s*([0-9])\*{0,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WiseVerdict:
    edition: WiseEdition
    grades: Mapping[str, int]
    """By name: consistency, realism, aesthetic_quality in {0, 1, 2}; or score in {0, 1}."""
    rationale: str = ""
    took: Took = field(default_factory=Took)

    @property
    def value(self) -> float:
        """WiScore, or the score; in [0, 1]."""
        weights = GRADE_WEIGHTS[self.edition]
        total = fsum(weight * self.grades[name] for name, weight in weights.items())
        return total / TOP_GRADE[self.edition]


@dataclass(frozen=True, slots=True, kw_only=True)
class WiseCategory:
    mean: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WiseAggregate:
    edition: WiseEdition
    categories: Mapping[str, WiseCategory]
    """A category without rows is absent."""
    overall: float | None
    """None when a category is absent: the weighted sum would not be WISE's."""


def wise_category(prompt_id: int, *, edition: WiseEdition) -> str:
    """Which category an id belongs to. Raises DataError outside 1..1000."""
    for category, last in LAST_IDS[edition].items():
        if 1 <= prompt_id <= last:
            return category
    raise DataError(f"prompt_id {prompt_id} is not in WISE, whose ids are 1 to 1000")


def wise_aggregate(scores: Iterable[tuple[int, float]], *, edition: WiseEdition) -> WiseAggregate:
    """From (prompt_id, value) rows: the mean of each category and the weighted whole."""
    by_category: dict[str, list[float]] = {}
    for prompt_id, value in scores:
        by_category.setdefault(wise_category(prompt_id, edition=edition), []).append(value)
    weights = CATEGORY_WEIGHTS[edition]
    categories = {
        name: WiseCategory(mean=fsum(values) / len(values), count=len(values))
        for name in weights
        if (values := by_category.get(name))
    }
    complete = len(categories) == len(weights)
    overall = fsum(weights[name] * item.mean for name, item in categories.items())
    return WiseAggregate(
        edition=edition, categories=categories, overall=overall if complete else None
    )


def parse_wise(text: str, *, edition: WiseEdition) -> WiseVerdict:
    """A reply in any of the formats that the module names. Raises JudgeError."""
    text = without_thoughts(text)
    if "{" in text:
        reply = read_object(text)
        scale = range(TOP_GRADE[edition] + 1)
        grades = {name: int(read_grade(reply, name, scale=scale)) for name in _names(edition)}
        rationale = read_rationale(reply) if "rationale" in reply else ""
        return WiseVerdict(edition=edition, grades=grades, rationale=rationale)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return WiseVerdict(edition=edition, grades=_bare(lines, edition) or _labelled(lines, edition))


def _bare(lines: list[str], edition: WiseEdition) -> dict[str, int]:
    """Nothing but the numbers, in the order of the names; else empty."""
    names = _names(edition)
    levels = {str(level): level for level in range(TOP_GRADE[edition] + 1)}
    if len(lines) != len(names) or not all(line in levels for line in lines):
        return {}
    return {name: levels[line] for name, line in zip(names, lines, strict=True)}


def _labelled(lines: list[str], edition: WiseEdition) -> dict[str, int]:
    """One line "Name: grade" for each name; other lines are prose."""
    grades: dict[str, int] = {}
    for line in lines:
        name = _label_of(line)
        if name not in _names(edition):
            continue
        match = _LABEL.fullmatch(line)
        if match is None or int(match[2]) > TOP_GRADE[edition] or name in grades:
            refuse(f"the line {line[:60]!r} is no grade, or stands twice")
        grades[name] = int(match[2])
    missing = [name for name in _names(edition) if name not in grades]
    if missing:
        refuse(f"{missing[0]} is missing")
    return {name: grades[name] for name in _names(edition)}


def _label_of(line: str) -> str:
    """The name that a line begins with, as our keys spell it; "" when it has none."""
    label = re.match(r"\*{0,2}([A-Za-z]+(?: [A-Za-z]+)?)\*{0,2}\s*:", line)
    spelled = label or _LABEL.fullmatch(line)
    return spelled[1].lower().replace(" ", "_") if spelled else ""


def _names(edition: WiseEdition) -> tuple[str, ...]:
    return tuple(GRADE_WEIGHTS[edition])
