"""What the controller needs from the rest of the system, as Protocols.

RolloutPool     Task -> Trajectory | Failure, on whichever worker has room; takes new weights
RemoteLearner   groups -> one optimizer step -> new weights, wherever the learner runs
Recorder        keeps members, spans and metrics for the report

cluster/local.py fills them in one process; cluster/ray_pool.py and cluster/algorithm.py do it with
Ray actors.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from cluster.frontier import Ending, FrontierState
from cluster.track.timeline import Span
from core.errors import LearnerError
from core.records import (
    Failure,
    Group,
    LearnerReport,
    Member,
    RolloutId,
    Task,
    Trajectory,
    WeightUpdate,
)

Mode = Literal["train", "eval"]
"""Which sampling section of the config an episode uses, and what its tool errors mean."""


class LearnerLostError(LearnerError):
    """The learner's process is gone, and with it every version since the last checkpoint."""


class RolloutPool(Protocol):
    async def run(self, task: Task, *, rollout_id: RolloutId, mode: Mode) -> Trajectory | Failure:
        """Play one episode. Waits for room; never raises for a fault of an engine or a node, but
        LearnerLostError when no worker is there and their weights are gone."""
        ...

    async def apply_weights(self, update: WeightUpdate, payload: Sequence[Any]) -> None:
        """Return when every live worker samples from `update`; a worker that is away gets it
        before it is given work again. Raises InfraError when no worker could take it,
        LearnerLostError when the payload is gone with the learner that published it."""
        ...


class RemoteLearner(Protocol):
    """Every method raises LearnerLostError when the learner's process is gone."""

    async def begin(self, groups: Sequence[Group]) -> None:
        """Work ahead on groups that will be among those of the next step. Raises as that."""
        ...

    async def step(self, groups: Sequence[Group]) -> LearnerReport:
        """One optimizer step. Raises LearnerError, FidelityError."""
        ...

    async def publish(self) -> tuple[WeightUpdate, Any]:
        """The current weights, and per chunk its array or, on a cluster, a reference to it."""
        ...

    async def save(self, folder: str) -> int:
        """Policy and resumable state; the version that is saved. It may be written while other
        calls go on: `saved` waits."""
        ...

    async def saved(self) -> None:
        """Return when the last save is whole. Raises LearnerError when it could not be."""
        ...

    async def load(self, folder: str) -> None: ...

    async def restart(self) -> None:
        """A new learner with the initial policy, in the place of one that is lost."""
        ...


class Recorder(Protocol):
    def started(self, state: FrontierState) -> None:
        """The run goes on from here; what ended after this state is done again."""
        ...

    def member(self, member: Member, *, mode: Mode, step: int) -> None: ...

    def span(self, span: Span) -> None: ...

    def group(self, group: Group, *, ending: Ending, step: int) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """End of a step: everything recorded so far is on disk when this returns."""
        ...
