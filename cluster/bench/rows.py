"""What each stage leaves behind: one row per task, which says what it was made of and by what.

`of` digests the content that went in (prompt, answer, image, ..), `by` digests the maker (agent,
image model, judge and rubric, with their settings). A row whose two are no longer the wanted ones
is stale, and only it. A failure of ours is an outcome like any other, never a number; it is kept
with its cause and tried again by the next run.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.records import Failure, ImageRef, Task
from envs.benchmarks import BenchTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of an episode, for people and for the benchmarks' own files."""

    role: str
    text: str
    images: tuple[ImageRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A reference image that the agent chose."""

    img_id: str
    """E.g. "IMG_003"."""
    note: str
    title: str
    page_url: str
    image: ImageRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the agent made of a task."""

    gen_prompt: str | None
    """What is drawn; None when there is no answer and nothing stands in for it."""
    references: tuple[Reference, ...]
    stop_reason: str
    """How the episode ended (core.records.StopReason); "none" when no episode was played."""
    fallback: str = ""
    """Why the raw prompt stands in for a grounded one; "" when it does not."""
    messages: tuple[Message, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the episode itself, by the names of cluster/report/summary.py."""
    tool_errors: tuple[str, ...] = ()
    """Providers that were down: the score may be low by no fault of the agent."""
    cost_usd: float = 0.0
    """Of its tool calls, and of its turns where an endpoint plays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    image: ImageRef
    model: str
    dropped_references: int = 0
    """More than the model takes, and left out as `render.extra_references` says."""
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Raw grades: every rule of arithmetic comes later, so that a new rule needs no new call."""

    grades: Mapping[str, float | None]
    """By dimension; None where it does not apply."""
    rationale: str
    judge: str
    """Judge and model, e.g. "openai:gpt-4.1"; "none" for the floor of a missing answer."""
    rubric_sha: str
    cost_usd: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    task_id: str
    of: str
    """Digest of what it was made from."""
    by: str
    """Digest of what made it."""
    outcome: Played | Failure
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRow:
    task_id: str
    of: str
    by: str
    outcome: Drawn | Failure
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRow:
    task_id: str
    of: str
    by: str
    outcome: Judged | Failure
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """A task as far as it came; a stage that it has not reached is None."""

    item: BenchTask
    agent: AgentRow | None
    render: RenderRow | None
    judge: JudgeRow | None

    @property
    def played(self) -> Played | None:
        return self.agent.outcome if self.agent and isinstance(self.agent.outcome, Played) else None

    @property
    def drawn(self) -> Drawn | None:
        return (
            self.render.outcome if self.render and isinstance(self.render.outcome, Drawn) else None
        )

    @property
    def judged(self) -> Judged | None:
        return self.judge.outcome if self.judge and isinstance(self.judge.outcome, Judged) else None

    @property
    def failure(self) -> Failure | None:
        """What stands between this task and its score, if a stage failed."""
        rows = (self.agent, self.render, self.judge)
        return next((r.outcome for r in rows if r and isinstance(r.outcome, Failure)), None)


def task_digest(task: Task) -> str:
    """What an agent is given; the ordinal decides its seeds."""
    return digest("task", task.task_id, str(task.ordinal), task.prompt)


def request_digest(played: Played) -> str:
    """What an image model is given."""
    shas = [reference.image.sha256 for reference in played.references]
    return digest("request", played.gen_prompt or "", *shas)


def case_digest(task: Task, *, image: ImageRef | None, played: Played, reads_answer: bool) -> str:
    """What a judge is given."""
    truth = task.ground_truth.sha256 if task.ground_truth else ""
    shown = image.sha256 if image else ""
    answer = [request_digest(played), *(r.note for r in played.references)] if reads_answer else []
    return digest("case", task.task_id, task.prompt, task.rubric or "", truth, shown, *answer)


def digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
