"""The Ray that a run lives on: the one it is told to join, or a local one of its own.

A local Ray listens on 127.0.0.1 only, without token authentication (left unstated, Ray 2.60 turns
it on and its own clients then fail to connect), keeps its files in a short folder under /tmp (a
socket path may have 107 characters), and is gone with them when the run ends. After an error the
folder stays, because the logs of the workers are in it.
A joined cluster is left as it was found, but for the controller of Serve, which serves all runs.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from actors.runtime_env import worker_env
from core.config import Config, default_environment, ray_address
from core.errors import ConfigError

logger = logging.getLogger(__name__)

GIB = 1024**3
MIN_LOGICAL_CPUS = 2
"""What the nano recipe asks for; on a machine with one core the actors share it."""


@contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Connected to Ray inside. Raises ConfigError when a named cluster does not answer.

    Inside a process that is connected already (a test, a Tune trial) it changes nothing.
    """
    if ray.is_initialized():
        yield
    elif (address := ray_address(config)) is not None:
        with _joined(address, worker_env(config)):
            yield
    else:
        with _local(config):
            yield


def alive_nodes() -> list[Mapping[str, float]]:
    """What each node of the connected cluster has in all, e.g. {"CPU": 8.0, "GPU": 1.0}."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def _joined(address: str, env: dict[str, str]) -> Iterator[None]:
    try:
        ray.init(address, runtime_env={"env_vars": env}, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray answers at {address} ({error}); check cluster.address or RAY_ADDRESS, and "
            "that RAY_AUTH_MODE is the same here as on the cluster"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _local(config: Config) -> Iterator[None]:
    default_environment("RAY_AUTH_MODE", "disabled")
    default_environment("RAY_worker_niceness", "0")  # 15 by default: starved by anything else
    folder = tempfile.mkdtemp(prefix="gs-", dir="/tmp")
    options: dict[str, Any] = {"_temp_dir": folder, "_node_ip_address": "127.0.0.1"}
    ray.init(
        num_cpus=max(MIN_LOGICAL_CPUS, os.cpu_count() or 1),
        object_store_memory=int(config.cluster.object_store_gib * GIB),
        include_dashboard=False,
        runtime_env={"env_vars": worker_env(config)},
        log_to_driver=False,
        **options,
    )
    try:
        yield
    except BaseException:
        ray.shutdown()
        logger.warning("the logs of the run's processes are kept in %s", folder)
        raise
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
