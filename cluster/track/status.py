"""What a running system says of itself at any moment; read by the live screen."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.frontier import Frontier
from cluster.parts import Mode
from cluster.track.timeline import Timeline
from core.records import Failure, Member, Stage
from core.sections.run import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    step: int
    """Optimizer steps done, which is the policy version."""
    total_steps: int
    stage: str
    """What the run waits for now: a kind of cluster.track.timeline.STAGES, or "idle"."""
    reward: float | None
    """Mean over the members scored since the last step; None before the first."""
    num_scored: int
    """Members scored since the last step."""
    groups_finished: int
    """Groups that wait for the batch to be complete."""
    groups_per_step: int
    in_flight: Mapping[str, int]
    """Open pieces of work by kind."""
    oldest_item: str
    """The piece of work that runs longest, e.g. "render 7.2.0"; "" when nothing runs."""
    oldest_age_s: float
    tool_calls: int
    """Since the start of the process, as are the next two."""
    cached_tool_calls: int
    failures: Mapping[str, int]
    """Failed attempts by stage."""
    last_metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the last step done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    step: int
    """Number of the step that was done; the first is 1."""
    metrics: Mapping[str, float]


class Tally:
    """Counts attempts as they end, for `Status`."""

    def __init__(self) -> None:
        self.tool_calls = 0
        self.cached_tool_calls = 0
        self.failures: Counter[str] = Counter()
        self.losses = 0
        """Learners lost since the last step."""
        self._rewards: list[float] = []

    def add(self, member: Member, *, mode: Mode) -> None:
        outcome = member.outcome
        if isinstance(outcome, Failure):
            self.failures[outcome.stage.value] += 1
        elif mode == "train" and not member.masked:
            self._rewards.append(outcome.value)
        for turn in member.trajectory.turns if member.trajectory else ():
            if turn.tool_result is not None:
                self.tool_calls += 1
                self.cached_tool_calls += turn.tool_result.cached

    def lost_learner(self) -> None:
        self.failures[Stage.LEARNER.value] += 1
        self.losses += 1

    def end_step(self) -> None:
        """The mean reward and the lost learners start afresh; the other counts go on."""
        self._rewards = []
        self.losses = 0

    @property
    def num_scored(self) -> int:
        return len(self._rewards)

    @property
    def reward(self) -> float | None:
        rewards = tuple(self._rewards)  # another thread reads while the loop goes on
        return sum(rewards) / len(rewards) if rewards else None


def status_of(
    frontier: Frontier,
    timeline: Timeline,
    tally: Tally,
    *,
    config: TrainConfig,
    last_report: StepReport | None,
) -> Status:
    """Safe to call from any thread."""
    oldest, in_flight = timeline.oldest, timeline.in_flight
    return Status(
        step=frontier.step,
        total_steps=config.steps,
        stage=_stage(frontier, in_flight, oldest.kind if oldest else "idle"),
        reward=tally.reward,
        num_scored=tally.num_scored,
        groups_finished=frontier.num_finished,
        groups_per_step=config.groups_per_step,
        in_flight=in_flight,
        oldest_item=f"{oldest.kind} {oldest.item}" if oldest else "",
        oldest_age_s=timeline.now() - oldest.start_s if oldest else 0.0,
        tool_calls=tally.tool_calls,
        cached_tool_calls=tally.cached_tool_calls,
        failures=dict(tally.failures),
        last_metrics=last_report.metrics if last_report else {},
    )


def _stage(frontier: Frontier, in_flight: Mapping[str, int], oldest_kind: str) -> str:
    """A step and its broadcast hold up everything; else the oldest piece of work does. A learner
    that works ahead holds up nothing."""
    if frontier.is_in_step:
        for kind in ("learn", "broadcast"):
            if in_flight.get(kind):
                return kind
    return oldest_kind
