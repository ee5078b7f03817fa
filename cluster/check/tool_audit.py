"""What the tools of a run did, added up from its trajectories and held against its recording.

In: a run's folder: trajectories.jsonl, config.yaml and, where the run recorded or replayed, its
store (envs/observations.py). Out: a `ToolAudit`. A call is compared by the digest of what the
policy was shown. Raises ConfigError when config.yaml names a store that is not there.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.openers import store_folder
from cluster.track.recorder import TRAJECTORIES, read_rows
from core.config import Config, load_config
from core.records import FoundImage, ImageRef, ToolResult
from envs.observations import observation_digest
from envs.store.store import Observation, Store

NAMED_CALLS = 20
"""So many of the calls that differ are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAudit:
    """Of every call that a finished episode made, training and evaluation alike."""

    mode: str = "live"
    """`tools.mode` of the run; nothing is compared in a live one."""
    calls: int = 0
    """Calls that were understood."""
    bad_calls: int = 0
    compared_calls: int = 0
    """Whose answer stands in the recording. Calls that failed are compared in a replay only: while
    recording, a later success takes their place."""
    equal_calls: int = 0
    cached_calls: int = 0
    """Answered without asking a provider."""
    upstream_calls: int = 0
    """As the search actors counted them, or the trajectories if these counted more."""
    stand_ins: int = 0
    """Calls that a replay answered from another query, marked as such."""
    tool_errors: int = 0
    """Calls that ended in "search unavailable"."""
    misses: Mapping[str, int] = field(default_factory=dict)
    """Operations that a replay had not recorded, by what was done: fail, empty, nearest."""
    different: tuple[str, ...] = ()
    """The calls whose answer is not the recorded one, once for each time."""

    @property
    def is_sound(self) -> bool:
        asked = self.mode == "replay" and self.upstream_calls > 0
        return not self.different and not asked


def audit_tools(folder: Path) -> ToolAudit:
    config = _config(folder)
    mode = "live" if config is None else config.tools.mode
    recorded: Mapping[str, Observation] = {}
    counted: Mapping[str, float] = {}
    if config is not None and mode != "live":
        recorded, counted = _read_store(config, folder)
    seen: Counter[str] = Counter()
    different = []
    for result in _results(folder):  # one at a time: those of a long run fill the memory
        seen["upstream_calls"] += result.upstream_calls
        seen["tool_errors"] += result.error is not None
        if not result.call_key:
            seen["bad_calls"] += 1
            continue
        seen["calls"] += 1
        seen["cached_calls"] += result.cached
        seen["stand_ins"] += result.stand_in is not None
        known = recorded.get(result.call_key)
        if known is not None and (mode == "replay" or result.error is None):
            seen["compared_calls"] += 1
            if observation_digest(result) != known.digest:
                different.append(known.call)
    seen["equal_calls"] = seen["compared_calls"] - len(different)
    seen["upstream_calls"] = max(seen["upstream_calls"], int(counted.get("upstream_calls", 0)))
    prefix = "misses/"
    return ToolAudit(
        mode=mode,
        misses={
            name.removeprefix(prefix): int(value)
            for name, value in sorted(counted.items())
            if name.startswith(prefix)
        },
        different=tuple(different),
        **seen,
    )


def tool_audit_json(audit: ToolAudit) -> dict[str, Any]:
    return {
        "tools_mode": audit.mode,
        "tool_calls": audit.calls,
        "bad_calls": audit.bad_calls,
        "compared_calls": audit.compared_calls,
        "equal_calls": audit.equal_calls,
        "different_calls": len(audit.different),
        "upstream_calls": audit.upstream_calls,
        "cached_calls": audit.cached_calls,
        "misses": dict(audit.misses),
        "stand_ins": audit.stand_ins,
        "tool_errors": audit.tool_errors,
    }


def _config(folder: Path) -> Config | None:
    path = folder / "config.yaml"
    return load_config(str(path)) if path.is_file() else None


def _read_store(config: Config, folder: Path) -> tuple[dict[str, Observation], dict[str, float]]:
    """Its observations, and what this run's search actors counted, restarts included."""
    store = Store.existing(store_folder(config, folder.resolve()))
    try:
        prefix = f"{config.run.name}/"
        statement = (
            "SELECT name, sum(value) FROM tallies WHERE substr(session, 1, ?) = ? GROUP BY name"
        )
        counted = dict(store.rows(statement, (len(prefix), prefix)))
        return store.observations(), counted
    finally:
        store.close()


def _results(folder: Path) -> Iterator[ToolResult]:
    for row in read_rows(folder / TRAJECTORIES):
        for turn in row.get("turns", ()):
            if turn["tool_result"] is not None:
                yield _tool_result(turn["tool_result"])


def _tool_result(row: Mapping[str, Any]) -> ToolResult:
    images = tuple(
        FoundImage(ref=ImageRef(**image["ref"]), title=image["title"], page_url=image["page_url"])
        for image in row["images"]
    )
    return ToolResult(**{**row, "images": images})
