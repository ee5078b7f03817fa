"""Fixtures of every test: one local Ray per session, and an environment that is the same for all.

`RAY_AUTH_MODE` must be stated before Ray is imported anywhere: left unset, Ray 2.60 turns token
authentication on for new clusters, and its own clients then fail to connect.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: starved on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What a terminal, a CI service or a proxy says of itself changes what commands print, and where
# clients of other people's send what is meant for loopback; a cluster is nothing for tests.
OF_THE_PLACE = {
    *("COLUMNS", "LINES", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "GITHUB_ACTIONS"),
    *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    "RAY_ADDRESS",
}
for name in list(os.environ):
    if name.upper() in OF_THE_PLACE:
        del os.environ[name]

# A shell that runs the tests in the background has Ctrl-C ignored, here and in all they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example may take any time. The same examples every time, so that a commit
# that passed passes again; `make soak` looks for others.
settings.register_profile(
    "same",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
)
settings.register_profile("other", settings.get_profile("same"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

OBJECT_STORE_BYTES = 300 * 1024**2


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local Ray with two logical CPUs; yields the address that it listens on."""
    import ray

    folder = tempfile.mkdtemp(prefix="gs-", dir="/tmp")  # short: sockets allow 107 characters
    context = ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=folder,
        runtime_env={"env_vars": _worker_env()},
        log_to_driver=False,
    )
    try:
        yield str(context.address_info["address"])
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _worker_env() -> dict[str, str]:
    """What every worker process of the tests is given."""
    from actors.runtime_env import worker_env
    from core.config import Config

    root = str(Path(__file__).resolve().parent.parent)
    return worker_env(Config()) | {"PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}
