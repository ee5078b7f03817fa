"""Everything that happened in a run, as JSON lines under runs/<name>/; only ever appended to.

trajectories.jsonl   one row per attempt of a member: text of every turn, tool calls and results,
                     images by digest, score parts or the failure
metrics.jsonl        one row per step
events.jsonl         spans (kind, item, start_s, end_s), how each group ended, and where the run
                     started: what ended before and was not in the checkpoint is done again

Rows are flushed to disk at the end of every step. A resumed run goes on in the same files; a row
that a crash cut in half is closed with a newline first, and readers skip it (`read_rows`).
"""

import hashlib
import json
import os
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.frontier import Ending, FrontierState
from cluster.parts import Mode
from cluster.track.timeline import Span
from core.records import Failure, Group, Member, Trajectory, Turn, to_jsonable
from core.wire import pack_rows

TRAJECTORIES = "trajectories.jsonl"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"


class JsonlRecorder:
    """Implements cluster.parts.Recorder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._trajectories = JsonLines(folder / TRAJECTORIES)
        self._metrics = JsonLines(folder / METRICS)
        self._events = JsonLines(folder / EVENTS)

    def started(self, state: FrontierState) -> None:
        """A process or a new learner takes the run up: at nothing, or at a checkpoint."""
        known = {"step": state.step, "next_ordinal": state.next_ordinal}
        self._events.write({"event": "started", **known, "pending": list(state.pending)})
        self.flush()

    def member(self, member: Member, *, mode: Mode, step: int) -> None:
        self._trajectories.write(member_row(member, mode=mode, step=step))

    def span(self, span: Span) -> None:
        self._events.write({"event": "span", **to_jsonable(span)})

    def group(self, group: Group, *, ending: Ending, step: int) -> None:
        row = {"event": "group", "ordinal": group.task.ordinal, "ending": ending, "step": step}
        self._events.write(row)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._metrics.write({"step": step, "time_s": time.time(), **metrics})
        self.flush()

    def flush(self) -> None:
        """Everything recorded so far is on disk when this returns."""
        for file in (self._trajectories, self._metrics, self._events):
            file.flush()

    def close(self) -> None:
        self.flush()
        for file in (self._trajectories, self._metrics, self._events):
            file.close()


def member_row(member: Member, *, mode: Mode, step: int) -> dict[str, Any]:
    """A member as one plain JSON object; token ids are left out, their numbers are kept."""
    trajectory = member.trajectory
    failed = isinstance(member.outcome, Failure)
    row: dict[str, Any] = {
        "mode": mode,
        "step": step,
        "rollout": str(member.rollout_id),
        "masked": member.masked,
        "failure" if failed else "score": to_jsonable(member.outcome),
        "rendered": to_jsonable(member.rendered),
    }
    if trajectory is not None:
        row |= {
            "task": to_jsonable(trajectory.task),
            "stop_reason": trajectory.stop_reason.value,
            "answer": to_jsonable(trajectory.answer),
            "shown": to_jsonable(trajectory.shown),
            "turns": [_turn_row(turn) for turn in trajectory.turns],
            "digest": trajectory_digest(trajectory),
        }
    return row


def trajectory_digest(trajectory: Trajectory) -> str:
    """Of everything that the learner can see: tokens, their log-probs to the last bit, pixels.

    Two runs of one seed in sync mode, over an unchanging tool world, have equal digests on a CPU.
    """
    seen = hashlib.sha256()
    prompts = pack_rows([turn.prompt_ids for turn in reversed(trajectory.turns)])
    for turn, (begun, length, ids) in zip(reversed(trajectory.turns), prompts, strict=True):
        completion = turn.completion
        pixels = [image.pixel_digest for image in turn.images]
        sizes = (begun, length, len(ids), len(completion.token_ids), len(pixels))
        seen.update(array("i", sizes))
        seen.update(ids)
        seen.update(array("i", completion.token_ids))
        seen.update(array("d", completion.logprobs))
        seen.update("".join(pixels).encode())
    return seen.hexdigest()


def _turn_row(turn: Turn) -> dict[str, Any]:
    return {
        "text": turn.text,
        "tool_call": to_jsonable(turn.tool_call),
        "tool_result": to_jsonable(turn.tool_result),
        "repairs": list(turn.repairs),
        "images_in_context": len(turn.images),
        "prompt_tokens": len(turn.prompt_ids),
        "sampled_tokens": len(turn.completion.token_ids),
        "policy_versions": to_jsonable(turn.completion.policy_versions),
        "started_s": turn.started_s,
        "generate_s": turn.generate_s,
        "tool_s": turn.tool_s,
    }


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a file; a torn one, and a file that is not there, give nothing."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            yield row


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one row per step in order. A step that was done again after a crash
    stands in the file twice; the later row counts."""
    rows = {int(row["step"]): row for row in read_rows(folder / METRICS)}
    return [rows[step] for step in sorted(rows)]


class JsonLines:
    """An append-only file of JSON rows; a row that a crash cut in half is closed first."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="ascii")
        if _is_torn(path):
            self._file.write("\n")

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _is_torn(path: Path) -> bool:
    """Whether the last row lacks its newline."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
