"""Finding and killing the processes of a run, at a moment when it hurts."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.util import list_named_actors

from cluster.launch import System
from tests.waiting import PATIENCE_S

POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    name: str
    busy_with: str
    """The kind of span that must be open when it dies."""
    pid: Callable[[System], int]


def _process_of(handle: ray.actor.ActorHandle) -> int:
    pid = handle.__ray_call__.remote(lambda actor: os.getpid())
    return int(ray.get(pid, timeout=PATIENCE_S))


def _rollout_worker(system: System) -> int:
    handle = system.algorithm.rollout_workers[0]
    return int(ray.get(handle.apply.remote(lambda worker: os.getpid()), timeout=PATIENCE_S))


def _render_replica(system: System) -> int:
    app = f"render-{system.config.run.name}"
    actors = list_named_actors(all_namespaces=True)
    (replica,) = (one for one in actors if f"{app}#" in one["name"])
    return _process_of(ray.get_actor(replica["name"], namespace=replica["namespace"]))


def _serve_controller(system: System) -> int:
    handle = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    return int(ray.get(handle.get_pid.remote(), timeout=PATIENCE_S))


def _judge(system: System) -> int:
    return _process_of(system.services.reward.judge._handle)  # type: ignore[attr-defined]


def _search_actor(system: System) -> int:
    return _process_of(system.services.toolbox._handles[0])


def _learner(system: System) -> int:
    group = system.algorithm.learner_group
    assert group is not None
    (result,) = group.foreach_learner(lambda learner: os.getpid())
    return int(result.get())


WORKER = Victim(name="rollout worker", busy_with="rollout", pid=_rollout_worker)
REPLICA = Victim(name="render replica", busy_with="render", pid=_render_replica)
JUDGE = Victim(name="judge", busy_with="judge", pid=_judge)
SEARCH = Victim(name="search actor", busy_with="rollout", pid=_search_actor)
LEARNER = Victim(name="learner", busy_with="learn", pid=_learner)
SERVE = Victim(name="controller of Serve", busy_with="render", pid=_serve_controller)

ONE_BY_ONE = tuple((victim,) for victim in (WORKER, REPLICA, JUDGE, SEARCH, LEARNER))
AT_ONCE = (
    (replace(WORKER, busy_with="learn"), LEARNER),  # the weights for its next start die with it
    (SERVE,),
    (SERVE, REPLICA),
    tuple(replace(one, busy_with="learn") for one in (WORKER, JUDGE, SEARCH, LEARNER)),
)


class Reaper:
    """Kills a victim once, in a thread of its own, as soon as it is busy."""

    def __init__(self, system: System, victim: Victim) -> None:
        self._system = system
        self._victim = victim
        self._pid = victim.pid(system)
        self._thread = threading.Thread(target=self._wait_and_kill, daemon=True)
        self._given_up = threading.Event()
        self.killed = False
        self._thread.start()

    def _wait_and_kill(self) -> None:
        while not self._given_up.is_set():
            if self._system.status().in_flight.get(self._victim.busy_with):
                os.kill(self._pid, signal.SIGKILL)
                self.killed = True
                return
            time.sleep(POLL_S)

    def join(self) -> None:
        self._given_up.set()
        self._thread.join()
