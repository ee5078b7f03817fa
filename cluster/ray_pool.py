"""Rollout workers as Ray actors, behind the one seam that the controller knows.

Episodes go to the ready worker with the least to do. A worker that dies is away until Ray has
restarted it, it answers again and it has the current weights; its episodes come back as Failures,
so that the controller issues them again. With every worker away, episodes wait.

The pool keeps the last dense update and the deltas since. Ready workers are given the newest one;
one that cannot use it (another base, a damaged byte) is given the whole chain before it is given
up, and so is one that comes back.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.parts import Mode
from core.errors import GensearcherError, InfraError, StageError
from core.records import Failure, RolloutId, Task, Trajectory, WeightUpdate

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""Between two tries to reach a worker that is away."""


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    handle: Any
    num_episodes: int = 0
    ready: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    update: WeightUpdate
    refs: list[Any]
    """One per chunk; in a list, so that a worker fetches them itself and maps them uncopied."""


class RayPool:
    """Implements cluster.parts.RolloutPool over actors with the methods of RolloutWorker."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self._workers = [
            _Worker(name=f"rollout worker {number}", handle=handle)
            for number, handle in enumerate(handles, start=1)
        ]
        self._chain: tuple[_Published, ...] = ()
        """The last dense update and the deltas that build on it; replaced, never changed."""
        self._returned = asyncio.Condition()
        self._returning: set[asyncio.Task[None]] = set()

    async def run(self, task: Task, *, rollout_id: RolloutId, mode: Mode) -> Trajectory | Failure:
        worker = await self._least_busy()
        worker.num_episodes += 1
        try:
            played: Trajectory | Failure = await worker.handle.run.remote(task, rollout_id, mode)
        except RayTaskError as error:
            return _as_failure(error, f"{worker.name}, rollout {rollout_id}")
        except RayError as error:
            self._lose(worker, str(error))
            message = f"{worker.name} was lost during rollout {rollout_id}"
            return InfraError(message, error_type=type(error).__name__).as_failure()
        finally:
            worker.num_episodes -= 1
        return played

    async def apply_weights(
        self, update: WeightUpdate, payload: Sequence["ray.ObjectRef[Any]"]
    ) -> None:
        """Raises InfraError when a worker refused the weights and no other took them. With every
        worker away, waits for one to come back: it comes back with these weights."""
        kept = () if update.base_version is None else self._chain
        self._chain = (*kept, _Published(update=update, refs=list(payload)))
        ready = [worker for worker in self._workers if worker.ready]
        refused = await asyncio.gather(*(self._apply(worker) for worker in ready))
        if any(refused) and not any(worker.ready for worker in ready):
            raise InfraError(f"no rollout worker could take version {update.version}")
        await self._wait_for_one()

    async def _apply(self, worker: _Worker) -> bool:
        """Give one worker the current weights; one that refuses them (True) is started afresh."""
        chain = self._chain
        try:
            try:
                await _send(worker, chain[-1:])
            except RayTaskError as error:
                if len(chain) == 1:
                    raise
                logger.warning("%s starts from the last snapshot: %r", worker.name, error.cause)
                await _send(worker, chain)
        except RayTaskError as error:
            ray.kill(worker.handle, no_restart=False)
            self._lose(worker, f"weights of version {chain[-1].update.version}: {error.cause!r}")
            return True
        except RayError as error:
            self._lose(worker, str(error))
        return False

    async def _wait_for_one(self) -> None:
        async with self._returned:
            await self._returned.wait_for(lambda: any(worker.ready for worker in self._workers))

    async def _least_busy(self) -> _Worker:
        await self._wait_for_one()
        ready = (worker for worker in self._workers if worker.ready)
        return min(ready, key=lambda worker: worker.num_episodes)

    def _lose(self, worker: _Worker, reason: str) -> None:
        if not worker.ready:
            return
        worker.ready = False
        logger.warning("%s is away: %s", worker.name, reason)
        task = asyncio.create_task(self._bring_back(worker), name=f"bring back {worker.name}")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _bring_back(self, worker: _Worker) -> None:
        """Wait until Ray has restarted it, give it the current weights, then give it work."""
        while True:
            chain = self._chain
            try:
                await worker.handle.ping.remote()
                if chain:
                    await _send(worker, chain)
            except RayError as error:
                logger.info("%s is not back yet: %s", worker.name, type(error).__name__)
                if isinstance(error, RayTaskError):
                    ray.kill(worker.handle, no_restart=False)  # alive, but its engine is not
                await asyncio.sleep(RETRY_S)
                continue
            if self._chain is chain:
                break
        worker.ready = True
        logger.warning("%s is back", worker.name)
        async with self._returned:
            self._returned.notify_all()


async def _send(worker: _Worker, chain: Sequence[_Published]) -> None:
    updates, refs = [one.update for one in chain], [one.refs for one in chain]
    await worker.handle.apply_weights.remote(updates, refs)


def _as_failure(error: RayTaskError, what: str) -> Failure:
    """Our own non-stage errors (fidelity, config, data) stop the run; anything else is infra."""
    cause = error.cause
    if isinstance(cause, StageError):
        return cause.as_failure()
    if isinstance(cause, GensearcherError):
        raise cause from error
    message = f"{what}: {type(cause).__name__}: {cause}"
    return InfraError(message, error_type=type(cause).__name__).as_failure()
