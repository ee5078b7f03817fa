"""What a run did, added up again from what its recorder wrote, and not from any counter.

In: a run's folder. Out: an `Audit`. A run that was killed and resumed did some work twice; what
counts is what the checkpoint that it went on from knew (`started` rows of events.jsonl), and what
came after. Raises ConfigError when the folder holds no run.

lost          ordinals below the newest consumed one that never ended
repeated      ordinals that ended more than once
false_zeros   scores that hide a fault of ours: a training member that met a broken tool, or an
              answer that was scored without a picture
different_calls   tool calls that were not answered as they were recorded (tool_audit.py)
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.check.tool_audit import NAMED_CALLS, ToolAudit, audit_tools, tool_audit_json
from cluster.frontier import Ending
from cluster.track.recorder import EVENTS, TRAJECTORIES, read_rows
from core.errors import ConfigError
from core.records import StopReason

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Every tuple is empty in a sound run."""

    steps: int
    """The newest step in which a group was consumed."""
    starts: int
    """How often the run was taken up, by a process or by a new learner."""
    consumed: int
    filtered: int
    failed: int
    members: int
    """Attempts of training members, those of abandoned work included."""
    lost: tuple[int, ...]
    repeated: tuple[int, ...]
    false_zeros: tuple[str, ...]
    """Rollouts."""
    tools: ToolAudit

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.repeated or self.false_zeros) and self.tools.is_sound


def audit_run(folder: Path) -> Audit:
    if not (folder / EVENTS).is_file():
        raise ConfigError(f"{folder} holds no {EVENTS}; give the folder of a run, e.g. runs/nano")
    endings, starts, steps = endings_of(read_rows(folder / EVENTS))
    kinds = Counter(kind for kinds in endings.values() for kind in kinds)
    members, false_zeros = _members(read_rows(folder / TRAJECTORIES))
    return Audit(
        steps=steps,
        starts=starts,
        consumed=kinds[Ending.CONSUMED],
        filtered=kinds[Ending.FILTERED],
        failed=kinds[Ending.FAILED],
        members=members,
        lost=_lost(endings),
        repeated=tuple(sorted(ordinal for ordinal, kinds in endings.items() if len(kinds) > 1)),
        false_zeros=false_zeros,
        tools=audit_tools(folder),
    )


def audit_json(audit: Audit) -> dict[str, Any]:
    """Numbers for machines; what was found is named under `found`."""
    return {
        "sound": audit.is_sound,
        "steps": audit.steps,
        "starts": audit.starts,
        "consumed": audit.consumed,
        "filtered": audit.filtered,
        "failed": audit.failed,
        "members": audit.members,
        "lost": len(audit.lost),
        "repeated": len(audit.repeated),
        "false_zeros": len(audit.false_zeros),
        **tool_audit_json(audit.tools),
        "found": {
            "lost": list(audit.lost),
            "repeated": list(audit.repeated),
            "false_zeros": list(audit.false_zeros),
            "different_calls": list(dict.fromkeys(audit.tools.different))[:NAMED_CALLS],
        },
    }


def endings_of(rows: Iterable[Row]) -> tuple[dict[int, list[Ending]], int, int]:
    """(endings of every ordinal that count, starts, newest step with a consumed group)."""
    endings: dict[int, list[Ending]] = {}
    starts = steps = 0
    for row in rows:
        if row["event"] == "started":
            starts += 1
            known, steps = _known_at(row), int(row["step"])
            endings = {ordinal: kinds for ordinal, kinds in endings.items() if ordinal in known}
        elif row["event"] == "group":
            endings.setdefault(int(row["ordinal"]), []).append(Ending(row["ending"]))
            if row["ending"] == Ending.CONSUMED:
                steps = max(steps, int(row["step"]))
    return endings, starts, steps


def _known_at(started: Row) -> frozenset[int]:
    """Ordinals that had ended when the checkpoint was made; the others are issued again."""
    return frozenset(range(int(started["next_ordinal"]))) - frozenset(started["pending"])


def _lost(endings: Mapping[int, list[Ending]]) -> tuple[int, ...]:
    """Batches are taken oldest first, so whatever is older than a consumed one has ended."""
    newest = max((o for o, kinds in endings.items() if Ending.CONSUMED in kinds), default=-1)
    return tuple(ordinal for ordinal in range(newest) if ordinal not in endings)


def _members(rows: Iterable[Row]) -> tuple[int, tuple[str, ...]]:
    """How many attempts of training, and those that hide a fault; one row in memory at a time."""
    number, hiding = 0, []
    for row in rows:
        if row["mode"] == "train":
            number += 1
            if _hides_a_fault(row):
                hiding.append(str(row["rollout"]))
    return number, tuple(hiding)


def _hides_a_fault(row: Row) -> bool:
    if "score" not in row:
        return False
    results = (turn["tool_result"] for turn in row.get("turns", ()))
    met_broken_tool = any(result and result["error"] for result in results)
    answered = row.get("stop_reason") == StopReason.ANSWER
    return met_broken_tool or (answered and row["rendered"] is None and not row["masked"])
