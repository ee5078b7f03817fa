"""Which tasks are under way, in what order they are consumed, and how each one ended.

Tasks have ordinals 0, 1, 2, ... Each is admitted once, and ends exactly once:

    consumed   its group was part of a learner step
    filtered   its members all scored the same, too many are masked, or whatever else leaves no
               gradient by the agent's own doing
    failed     fewer than two members could be scored, by faults of ours

Filtered and failed ones are replaced by the next ordinals. A batch is the `groups_per_step` oldest
groups under way, once all of them are finished.

Staleness. Let v be the policy version (optimizer steps done) and S = max_staleness. A group is
admitted only while (consumed + under way) < (v + 1 + S) * groups_per_step, so its rank among the
consumed and the older ones under way is below that bound. Ranks only fall, batches are taken in
the order of rank, and batch b is consumed at version b; hence a group admitted at version v is
consumed at version v + S at the latest, and so is every token of it.

Pure bookkeeping: no clock, no tasks, no Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from core.errors import GensearcherError
from core.records import Group, Score


class Ending(StrEnum):
    CONSUMED = "consumed"
    FILTERED = "filtered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierState:
    """What a checkpoint keeps; tasks that still run are simply issued again."""

    step: int
    next_ordinal: int
    pending: tuple[int, ...] = ()
    """Ordinals that were admitted and had not ended."""
    finished: tuple[Group, ...] = ()
    """Of the pending ones, those that only wait for their batch."""


class Frontier:
    def __init__(
        self,
        *,
        groups_per_step: int,
        max_staleness: int,
        total_steps: int,
        state: FrontierState | None = None,
        teaches: Callable[[Group], bool],
    ) -> None:
        """`teaches`: whether the learner makes a gradient of a group."""
        state = state or FrontierState(step=0, next_ordinal=0)
        self._groups_per_step = groups_per_step
        self._max_staleness = max_staleness
        self._total_steps = total_steps
        self._step = state.step
        self._target = state.step
        self._next_ordinal = state.next_ordinal
        self._under_way: dict[int, Group | None] = {
            group.task.ordinal: group for group in state.finished
        }
        """Ordinal -> finished group, or None while it runs."""
        self._reissue = sorted(set(state.pending) - set(self._under_way))
        self._taken: tuple[int, ...] = ()
        self._ends_without_gradient = 0
        self._teaches = teaches

    @property
    def step(self) -> int:
        """Optimizer steps done, which is the policy version."""
        return self._step

    @property
    def state(self) -> FrontierState:
        return FrontierState(
            step=self._step,
            next_ordinal=self._next_ordinal,
            pending=tuple(sorted((*self._under_way, *self._reissue))),
            finished=tuple(group for group in self._under_way.values() if group is not None),
        )

    @property
    def next_batch(self) -> int:
        """Number of the batch that the next ordinal belongs to, if none before it is replaced."""
        return self._next_ordinal // self._groups_per_step

    @property
    def is_in_step(self) -> bool:
        """Whether a batch is taken and its step not complete. Read from any thread."""
        return bool(self._taken)

    @property
    def num_finished(self) -> int:
        """Groups that wait for their batch to be complete. Read from any thread."""
        return sum(group is not None for group in tuple(self._under_way.values()))

    @property
    def ends_without_gradient(self) -> int:
        """Groups in a row that ended filtered or failed."""
        return self._ends_without_gradient

    def aim(self, target: int) -> None:
        """Admit what steps up to `target` need, and no more than the staleness bound allows."""
        self._target = max(self._target, target)
        self._total_steps = max(self._total_steps, target)

    def admit(self) -> int | None:
        """The next ordinal to start, or None when there is no room for one now."""
        last_step = min(self._step, self._target - 1) + self._max_staleness
        room = min(last_step + 1, self._total_steps) * self._groups_per_step
        if self._step * self._groups_per_step + len(self._under_way) >= room:
            return None
        if self._reissue:
            ordinal = self._reissue.pop(0)
        else:
            ordinal = self._next_ordinal
            self._next_ordinal += 1
        self._under_way[ordinal] = None
        return ordinal

    def finish(self, group: Group) -> Ending | None:
        """Take in a finished group; None means that it waits to be consumed."""
        ordinal = group.task.ordinal
        if self._under_way.get(ordinal, group) is not None:
            raise GensearcherError(f"task {ordinal} finished, but it is not under way")
        if self._teaches(group):
            self._under_way[ordinal] = group
            self._ends_without_gradient = 0
            return None
        del self._under_way[ordinal]
        self._ends_without_gradient += 1
        with_score = [m for m in group.members if isinstance(m.outcome, Score)]
        return Ending.FAILED if len(with_score) < 2 else Ending.FILTERED

    def certain(self) -> tuple[Group, ...]:
        """The finished groups that will be in the next batch whatever becomes of the others: those
        whose rank is within it, since ranks only fall."""
        oldest = sorted(self._under_way)[: self._groups_per_step]
        groups = (self._under_way[ordinal] for ordinal in oldest)
        return tuple(group for group in groups if group is not None)

    def take_batch(self) -> tuple[Group, ...] | None:
        """The oldest groups under way, if all of them are finished; they stay under way until
        `complete_step`, so that a checkpoint made in between would issue them again."""
        groups = self.certain()
        if len(groups) < self._groups_per_step:
            return None
        self._taken = tuple(group.task.ordinal for group in groups)
        return groups

    def complete_step(self) -> None:
        """The taken batch is consumed, and the policy has its next version."""
        for ordinal in self._taken:
            del self._under_way[ordinal]
        self._taken = ()
        self._step += 1
