"""Who turns a task into a prompt for the image model: an episode, or nobody (the raw prompt).

In: a task. Out: a `Played`, or the Failure of an episode that broke by a fault of ours, after its
re-issues. Where the agent left no answer, the raw prompt stands in for it if `fallback`, as in the
paper's inference (arXiv 2603.28767); the row then says why.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cluster.bench.rows import Message, Played, Reference
from cluster.parts import RolloutPool
from cluster.report.summary import episode_values
from core.records import Answer, AnswerError, Failure, RolloutId, Task, Trajectory

NOBODY = "none"
"""Stands for the agent, and for the end of an episode that was not played."""


class Agent(Protocol):
    @property
    def identity(self) -> str:
        """Changes with anything beside the task that decides what it answers."""
        ...

    async def play(self, task: Task) -> Played | Failure: ...


class RawPrompt:
    """Implements `Agent` without one: the image model alone, the paper's baseline."""

    identity = NOBODY

    async def play(self, task: Task) -> Played | Failure:
        return Played(gen_prompt=task.prompt, references=(), stop_reason=NOBODY)


def costs_nothing(rollout_id: RolloutId) -> float:
    """The turns of an engine of our own."""
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeAgent:
    """Implements `Agent` with episodes of a pool."""

    pool: RolloutPool
    identity: str
    system_prompt: str
    fallback: bool
    max_reissues: int
    turns_cost_usd: Callable[[RolloutId], float] = costs_nothing
    """What an endpoint took for the turns of an episode."""

    async def play(self, task: Task) -> Played | Failure:
        attempt, spent_usd = 0, 0.0
        while True:
            rollout_id = RolloutId(ordinal=task.ordinal, index=0, attempt=attempt)
            played = await self.pool.run(task, rollout_id=rollout_id, mode="eval")
            spent_usd += self.turns_cost_usd(rollout_id)
            if isinstance(played, Trajectory):
                return self._played(played, spent_usd=spent_usd)
            if not played.retryable or attempt >= self.max_reissues:
                return played
            attempt += 1

    def _played(self, trajectory: Trajectory, *, spent_usd: float) -> Played:
        answer = trajectory.answer
        prompt: str | None
        if isinstance(answer, Answer):
            prompt, fallback = answer.gen_prompt, ""
        elif self.fallback:
            prompt, fallback = trajectory.task.prompt, answer.reason
        else:
            prompt, fallback = None, ""
        results = [turn.tool_result for turn in trajectory.turns if turn.tool_result]
        return Played(
            gen_prompt=prompt,
            references=references_of(trajectory),
            stop_reason=trajectory.stop_reason.value,
            fallback=fallback,
            messages=tuple(_messages(trajectory, system_prompt=self.system_prompt)),
            values=episode_values(trajectory),
            tool_errors=trajectory.tool_errors,
            cost_usd=spent_usd + sum(result.cost_usd for result in results),
        )


def references_of(trajectory: Trajectory) -> tuple[Reference, ...]:
    """The chosen references with what was known of each when it was shown."""
    if isinstance(trajectory.answer, AnswerError):
        return ()
    shown = {image.ref.sha256: (name, image) for name, image in trajectory.shown}
    found = []
    for ref, note in zip(trajectory.answer.chosen, trajectory.answer.notes, strict=True):
        name, image = shown[ref.sha256]
        found.append(
            Reference(img_id=name, note=note, title=image.title, page_url=image.page_url, image=ref)
        )
    return tuple(found)


def _messages(trajectory: Trajectory, *, system_prompt: str) -> Iterator[Message]:
    """The episode as the published tools write it: tool results come back from the user."""
    yield Message(role="system", text=system_prompt)
    yield Message(role="user", text=trajectory.task.prompt)
    for turn in trajectory.turns:
        yield Message(role="assistant", text=turn.text)
        if turn.tool_result is not None:
            yield Message(
                role="user",
                text=f"<tool_response>\n{turn.tool_result.text}\n</tool_response>",
                images=tuple(image.ref for image in turn.tool_result.images),
            )
