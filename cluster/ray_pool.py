"""Rollout workers as Ray actors, behind the one seam that the controller knows.

Episodes go to the ready worker with the least to do. A worker that dies is away until Ray has
restarted it, it answers again and it has the current weights; its episodes come back as Failures,
so that the controller issues them again, and so does one that takes too long. With every worker
away, episodes wait; with every worker gone for good, NoWorkersError ends the run; with every worker
away, and gone with the learner the weights that they wait for, it is a LearnerLostError. A worker
whose node is about to be taken away gets no new episode while another has room for it, and moves
once its last one has ended.

The pool keeps the last dense update and the deltas since. Ready workers are given the newest one;
one that cannot use it (another base, a damaged byte) is given the whole chain before it is given
up, and so is one that comes back.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ObjectLostError, RayError, RayTaskError

from actors.stats import EngineStats
from cluster.parts import LearnerLostError, Mode
from core.errors import GensearcherError, InfraError, StageError
from core.failure_policy import Action, Budget, Event, Fault, Part, decide
from core.records import Failure, RolloutId, Task, Trajectory, WeightUpdate

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""Between two tries to reach a worker that is away."""
GIVE_UP = Budget(times=10)
"""Tries at which Ray said that it does not restart the worker any more."""


class NoWorkersError(GensearcherError):
    """No rollout worker is left, and none will come back."""


STATS_S = 5.0
"""Patience with a worker that is asked for its numbers."""
PING_S = 30.0
"""Patience with one that let an episode take too long and is asked whether it still answers."""


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    handle: Any
    num_episodes: int = 0
    ready: bool = True
    node_id: str | None = None
    """None: not asked yet."""
    draining: bool = False
    """Its node is about to be taken away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    update: WeightUpdate
    refs: list[Any]
    """One per chunk; in a list, so that a worker fetches them itself and maps them uncopied."""


class RayPool:
    """Implements cluster.parts.RolloutPool over actors with the methods of RolloutWorker."""

    def __init__(
        self,
        handles: Sequence[Any],
        *,
        episode_timeout_s: float | None = None,
        draining_nodes: Callable[[], Container[str]] | None = None,
    ) -> None:
        """`episode_timeout_s`: an episode that a worker has had for longer is stopped there and
        comes back as a Failure; None: never. `draining_nodes`: ids of the nodes that go away soon;
        by default, what Ray says."""
        self._episode_timeout_s = episode_timeout_s
        self._draining_nodes = draining_nodes or ray._private.state.state.get_draining_nodes
        self._workers = [
            _Worker(name=f"rollout worker {number}", handle=handle)
            for number, handle in enumerate(handles, start=1)
        ]
        self._chain: tuple[_Published, ...] = ()
        """The last dense update and the deltas that build on it; replaced, never changed."""
        self._weights_are_gone = False
        self._returned = asyncio.Condition()
        self._returning: set[asyncio.Task[None]] = set()

    async def run(self, task: Task, *, rollout_id: RolloutId, mode: Mode) -> Trajectory | Failure:
        worker = await self._least_busy()
        worker.num_episodes += 1
        episode = worker.handle.run.remote(task, rollout_id, mode)
        try:
            async with asyncio.timeout(self._episode_timeout_s):
                played: Trajectory | Failure = await episode
        except asyncio.CancelledError:
            ray.cancel(episode)  # else it would go on to hold the engine
            raise
        except RayTaskError as error:
            return _as_failure(error, f"{worker.name}, rollout {rollout_id}")
        except RayError as error:
            self._lose(worker, str(error))
            message = f"{worker.name} was lost during rollout {rollout_id}"
            return InfraError(message, error_type=type(error).__name__).as_failure()
        except TimeoutError:  # ours: one that a worker raises is a RayTaskError too
            await self._take_back(episode, worker)
            message = f"{worker.name} had rollout {rollout_id} for {self._episode_timeout_s:g} s"
            return InfraError(message, error_type="EpisodeTimeout").as_failure()
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
        self._weights_are_gone = False
        ready = [worker for worker in self._workers if worker.ready]
        faults = await asyncio.gather(*(self._apply(worker) for worker in ready))
        if Fault.LOST in faults:
            raise LearnerLostError(f"the weights of version {update.version} are gone")
        if Fault.FAILED in faults and not any(worker.ready for worker in ready):
            raise InfraError(f"no rollout worker could take version {update.version}")
        await self._wait_for_one()

    async def engine_stats(self) -> Mapping[str, EngineStats]:
        """Of the workers that are there, by name; one that does not answer is left out."""
        ready = [worker for worker in self._workers if worker.ready]
        answers = await asyncio.gather(*(_stats(worker) for worker in ready))
        named = zip(ready, answers, strict=True)
        return {worker.name: stats for worker, stats in named if stats is not None}

    async def read_engines(self) -> Sequence[EngineStats]:
        await self._leave_draining_nodes()
        return tuple((await self.engine_stats()).values())

    async def _leave_draining_nodes(self) -> None:
        draining = await asyncio.to_thread(self._draining_nodes)
        for worker in [worker for worker in self._workers if worker.ready]:
            if worker.node_id is None:
                with suppress(RayError):
                    worker.node_id = await worker.handle.node_id.remote()
            worker.draining = worker.node_id is not None and worker.node_id in draining
        ready = [worker for worker in self._workers if worker.ready]
        if all(worker.draining for worker in ready):
            return
        for worker in ready:
            if worker.draining and not worker.num_episodes:
                ray.kill(worker.handle, no_restart=False)
                self._lose(worker, "its node is draining; Ray starts it on another")

    async def _apply(self, worker: _Worker) -> Fault | None:
        """Give one worker the current weights; one that refuses them is started afresh (FAILED),
        unless the weights themselves are gone (LOST)."""
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
            if _went_with_learner(error):
                return Fault.LOST
            ray.kill(worker.handle, no_restart=False)
            self._lose(worker, f"weights of version {chain[-1].update.version}: {error.cause!r}")
            return Fault.FAILED
        except RayError as error:
            self._lose(worker, str(error))
        return None

    async def _wait_for_one(self) -> None:
        """Raises NoWorkersError, LearnerLostError."""

        def is_over() -> bool:
            ready = any(worker.ready for worker in self._workers)
            return ready or not self._workers or self._weights_are_gone

        async with self._returned:
            await self._returned.wait_for(is_over)
        if any(worker.ready for worker in self._workers):
            return
        if self._weights_are_gone:
            raise LearnerLostError("the weights that every rollout worker waits for are gone")
        raise NoWorkersError("every rollout worker is gone; its log in Ray's folder says why")

    async def _least_busy(self) -> _Worker:
        await self._wait_for_one()
        ready = (worker for worker in self._workers if worker.ready)
        return min(ready, key=lambda worker: (worker.draining, worker.num_episodes))

    async def _take_back(self, episode: Any, worker: _Worker) -> None:
        """A worker that does not answer will not stop it either, and is started afresh: else it
        would have room again, and be given one episode after another."""
        ray.cancel(episode)
        try:
            async with asyncio.timeout(PING_S):
                await worker.handle.ping.remote()
        except RayError as error:
            self._lose(worker, str(error))
        except TimeoutError:
            if worker.ready:
                ray.kill(worker.handle, no_restart=False)
            self._lose(worker, f"it has not answered for {PING_S:g} s")

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
        times: Counter[Fault] = Counter()
        while True:
            chain = self._chain
            try:
                await worker.handle.ping.remote()
                if chain:
                    await _send(worker, chain)
            except RayError as error:
                logger.info("%s is not back yet: %s", worker.name, type(error).__name__)
                fault = _fault_of_worker(error)
                times[fault] += 1
                event = Event(part=Part.WORKER, fault=fault, times=times[fault])
                if decide(event, budget=GIVE_UP) is Action.DROP:
                    logger.error("%s is gone for good: %s", worker.name, error)
                    self._workers.remove(worker)
                    break
                if fault is Fault.FAILED:
                    ray.kill(worker.handle, no_restart=False)  # alive, but its engine is not
                if _went_with_learner(error) and self._chain is chain:
                    self._weights_are_gone = True
                    async with self._returned:
                        self._returned.notify_all()
                await asyncio.sleep(RETRY_S)
                continue
            if self._chain is chain:
                worker.ready, worker.node_id, worker.draining = True, None, False
                logger.warning("%s is back", worker.name)
                break
        async with self._returned:
            self._returned.notify_all()


async def _stats(worker: _Worker) -> EngineStats | None:
    try:
        async with asyncio.timeout(STATS_S):
            stats: EngineStats = await worker.handle.stats.remote()
    except (RayError, TimeoutError) as error:
        logger.info("%s tells no numbers: %s", worker.name, type(error).__name__)
        return None
    return stats


async def _send(worker: _Worker, chain: Sequence[_Published]) -> None:
    updates, refs = [one.update for one in chain], [one.refs for one in chain]
    await worker.handle.apply_weights.remote(updates, refs)


def _fault_of_worker(error: RayError) -> Fault:
    match error:
        case RayTaskError():
            return Fault.LOST if _went_with_learner(error) else Fault.FAILED
        case ActorDiedError():  # "unavailable" is what Ray says while it restarts one
            return Fault.HOPELESS
        case _:
            return Fault.LOST


def _went_with_learner(error: RayError) -> bool:
    """The weights that it was to take: the learner's process owns them."""
    return isinstance(error, RayTaskError) and isinstance(error.cause, ObjectLostError)


def _as_failure(error: RayTaskError, what: str) -> Failure:
    """Our own non-stage errors (fidelity, config, data) stop the run; anything else is infra."""
    cause = error.cause
    if isinstance(cause, StageError):
        return cause.as_failure()
    if isinstance(cause, GensearcherError):
        raise cause from error
    message = f"{what}: {type(cause).__name__}: {cause}"
    return InfraError(message, error_type=type(cause).__name__).as_failure()
