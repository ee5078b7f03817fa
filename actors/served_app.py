"""A Serve application that ends with the driver that started it, however the driver ends.

Serve's controller outlives drivers and keeps every application, with its GPUs, until somebody
deletes it; a driver that is killed does not. On a cluster that it joined, a driver therefore starts
a keeper, which outlives it too, and a canary, which Ray ends with it. The keeper waits for that,
deletes the application, and goes.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import ActorDiedError, RayActorError
from ray.serve.exceptions import RayServeException

logger = logging.getLogger(__name__)

NAMESPACE: Final = "gensearcher"
"""Of the keepers: the next run of the same name has to find one."""
PAUSE_S: Final = 1.0


class Canary:
    async def sing(self) -> None:
        """For ever."""
        await asyncio.Event().wait()


class Keeper:
    def keep(self, canary: Any, app_name: str) -> None:
        """A canary whose node was lost sings on another; one that died is its driver's end."""
        while True:
            try:
                ray.get(canary.sing.remote())
            except ActorDiedError:
                break
            except RayActorError:
                time.sleep(PAUSE_S)
        logger.warning("the driver of %s is gone; the application is deleted", app_name)
        delete_app(app_name)
        ray.actor.exit_actor()


@contextmanager
def served_app(app_name: str, *, shared_cluster: bool) -> Iterator[None]:
    """Deleted afterwards, if it was deployed inside. `shared_cluster`: one that does not end with
    this process."""
    with _kept(app_name) if shared_cluster else nullcontext():
        try:
            yield
        finally:
            delete_app(app_name)


@contextmanager
def _kept(app_name: str) -> Iterator[None]:
    """Watched over by a keeper, which Ray starts again where its own process or node is lost."""
    name = f"keeper of {app_name}"
    with suppress(ValueError):  # of a driver that was killed just now
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    unbreakable = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    canary = ray.remote(Canary).options(**unbreakable).remote()
    detached = {"lifetime": "detached", "name": name, "namespace": NAMESPACE}
    keeper = ray.remote(Keeper).options(**unbreakable, **detached).remote()
    keeper.keep.remote(canary, app_name)
    try:
        yield
    finally:
        ray.kill(keeper)
        ray.kill(canary)


def delete_app(app_name: str) -> None:
    """If it is deployed; the rest of Serve stays."""
    with suppress(RayServeException):
        serve.delete(app_name)
