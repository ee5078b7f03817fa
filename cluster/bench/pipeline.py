"""Every task through agent -> render -> judge, as far as the stages that are asked for.

In: tasks, and a maker for each stage to be run. Out: one `RowResult` per task, in order. Each row
is on disk before it is counted, and one that is there already is not made again; a row that failed
is. A stage without a maker is taken from disk as it is there, whoever made it.

Rows flow on their own: a picture is judged while other episodes are still played. A fault of ours
ends one row's way, as its Failure; it ends neither the run nor any other row. Retries belong to
the makers: nothing is tried twice here.

What kill -9 can cost: replies that had not arrived, and those between their arrival and the fsync
of their row (milliseconds), which the judge's own cache covers.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cluster.bench.agents import Agent
from cluster.bench.journal import Journals
from cluster.bench.rows import (
    AgentRow,
    Drawn,
    Judged,
    JudgeRow,
    Played,
    RenderRow,
    RowResult,
    case_digest,
    digest,
    request_digest,
    task_digest,
)
from cluster.bench.scorers import Scorer
from core.errors import InfraError, JudgeError, RenderError, StageError, boundary
from core.outcomes import FLOOR
from core.protocols import ImageModel
from core.records import Failure, RenderRequest
from core.sections.scoring import RenderConfig
from envs.benchmarks import BenchTask

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Makers:
    """Who makes the rows of each stage; None: the stage is not run."""

    agent: Agent | None = None
    image_model: ImageModel | None = None
    scorer: Scorer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """How many rows each stage works on at once."""

    agent: int
    render: int
    judge: int


@dataclass(slots=True)
class Counts:
    """Rows of this run so far."""

    made: dict[str, int] = field(default_factory=dict)
    """By stage."""
    reused: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def add(self, kind: dict[str, int], stage: str) -> None:
        kind[stage] = kind.get(stage, 0) + 1


class Pipeline:
    def __init__(
        self,
        makers: Makers,
        *,
        journals: Journals,
        render: RenderConfig,
        width: Width,
        reads_answer: bool,
        counts: Counts | None = None,
    ) -> None:
        """`reads_answer`: the grades depend on the answer too, not only on the picture."""
        self._makers = makers
        self._journals = journals
        self._render_config = render
        self._reads_answer = reads_answer
        self._agent_room = asyncio.Semaphore(width.agent)
        self._render_room = asyncio.Semaphore(width.render)
        self._judge_room = asyncio.Semaphore(width.judge)
        self.counts = counts or Counts()

    async def run(self, items: Sequence[BenchTask]) -> tuple[RowResult, ...]:
        """Bugs of ours and a full disk are raised; a fault of a maker is a row's Failure."""
        try:
            async with asyncio.TaskGroup() as group:
                rows = [group.create_task(self._row(item)) for item in items]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return tuple(row.result() for row in rows)

    async def _row(self, item: BenchTask) -> RowResult:
        render = judge = None
        agent = await self._agent(item)
        if agent is not None and isinstance(agent.outcome, Played):
            played = agent.outcome
            if played.gen_prompt is not None:
                render = await self._render(item, played)
            if played.gen_prompt is None or (render and isinstance(render.outcome, Drawn)):
                judge = await self._judge(item, played, render)
        return RowResult(item=item, agent=agent, render=render, judge=judge)

    async def _agent(self, item: BenchTask) -> AgentRow | None:
        agent, journal = self._makers.agent, self._journals.agent
        of = task_digest(item.task)
        by = digest(agent.identity) if agent else None
        known = journal.find(item.task.task_id, of=of, by=by)
        if agent is None or by is None or _is_done(known):
            return self._reuse("agent", known)
        async with self._agent_room:
            outcome, seconds = await _timed(
                InfraError, f"the agent on task {item.task.task_id}", agent.play(item.task)
            )
        row = AgentRow(task_id=item.task.task_id, of=of, by=by, outcome=outcome, seconds=seconds)
        journal.put(row)
        self._count("agent", row.outcome)
        return row

    async def _render(self, item: BenchTask, played: Played) -> RenderRow | None:
        model, journal = self._makers.image_model, self._journals.render
        config = self._render_config
        of = request_digest(played)
        settings = (model.name, str(config.steps), str(config.seeds[0])) if model else None
        by = digest(*settings) if settings else None
        known = journal.find(item.task.task_id, of=of, by=by)
        if model is None or by is None or _is_done(known):
            return self._reuse("render", known)
        request = RenderRequest(
            prompt=played.gen_prompt or "",
            references=tuple(reference.image for reference in played.references),
            seed=config.seeds[0],
            steps=config.steps,
            model=model.name,
        )
        async with self._render_room:
            rendered, seconds = await _timed(
                RenderError, f"the render of task {item.task.task_id}", model.render(request)
            )
        outcome = (
            rendered
            if isinstance(rendered, Failure)
            else Drawn(
                image=rendered.image,
                model=model.name,
                dropped_references=rendered.dropped_references,
                cost_usd=rendered.cost_usd,
            )
        )
        row = RenderRow(task_id=item.task.task_id, of=of, by=by, outcome=outcome, seconds=seconds)
        journal.put(row)
        self._count("render", row.outcome)
        return row

    async def _judge(
        self, item: BenchTask, played: Played, render: RenderRow | None
    ) -> JudgeRow | None:
        scorer, journal = self._makers.scorer, self._journals.judge
        drawn = render.outcome.image if render and isinstance(render.outcome, Drawn) else None
        by = None
        if scorer is not None:
            by = digest(scorer.judge_name, scorer.rubric_sha, scorer.settings, *scorer.dimensions)
        of = case_digest(item.task, image=drawn, played=played, reads_answer=self._reads_answer)
        known = journal.find(item.task.task_id, of=of, by=by)
        if scorer is None or by is None or _is_done(known):
            return self._reuse("judge", known)
        outcome: Judged | Failure
        if drawn is None:
            outcome, seconds = _floor(scorer, played), 0.0
        else:
            async with self._judge_room:
                outcome, seconds = await _timed(
                    JudgeError,
                    f"the judge on task {item.task.task_id}",
                    scorer.score(item.task, played=played, image=drawn),
                )
        row = JudgeRow(task_id=item.task.task_id, of=of, by=by, outcome=outcome, seconds=seconds)
        journal.put(row)
        self._count("judge", row.outcome)
        return row

    def _reuse(self, stage: str, row: T) -> T:
        if row is not None:
            self.counts.add(self.counts.reused, stage)
        return row

    def _count(self, stage: str, outcome: object) -> None:
        failed = isinstance(outcome, Failure)
        self.counts.add(self.counts.failed if failed else self.counts.made, stage)


def _is_done(row: AgentRow | RenderRow | JudgeRow | None) -> bool:
    return row is not None and not isinstance(row.outcome, Failure)


def _floor(scorer: Scorer, played: Played) -> Judged:
    """The agent's own fault: no answer, so nothing was drawn, and the floor in every dimension."""
    return Judged(
        grades=dict.fromkeys(scorer.dimensions, FLOOR),
        rationale=f"No answer: the episode ended as {played.stop_reason.replace('_', ' ')}.",
        judge="none",
        rubric_sha="",
    )


async def _timed(
    kind: type[StageError], what: str, call: Awaitable[T]
) -> tuple[T | Failure, float]:
    """What it gave, or the Failure that became of its fault, and the seconds it took."""
    started_s = time.monotonic()
    try:
        with boundary(kind, what):
            return await call, time.monotonic() - started_s
    except StageError as error:
        logger.warning("%s: %s", what, error)
        return error.as_failure(), time.monotonic() - started_s
