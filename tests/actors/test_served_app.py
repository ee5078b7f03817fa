"""A Serve application on a cluster that outlives its driver, when the driver is killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import pytest
from ray import serve
from ray.util import list_named_actors

from actors.served_app import NAMESPACE, served_app

pytestmark = [pytest.mark.integration, pytest.mark.ray]

APP = "of-a-killed-driver"
DRIVER = """
import sys, time, ray
from ray import serve
from actors.served_app import served_app

class Echo:
    def __call__(self) -> int:
        return 1

address, name = sys.argv[1:]
ray.init(address, log_to_driver=False)
with served_app(name, shared_cluster=True):
    serve.start(proxy_location="Disabled")
    echo = serve.deployment(Echo).options(ray_actor_options={"num_cpus": 0.1})
    serve.run(echo.bind(), name=name, route_prefix=None)
    print("deployed", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def serve_controller(ray_cluster: str) -> Iterator[None]:
    yield
    serve.shutdown()


def kept() -> list[str]:
    actors = list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["namespace"] == NAMESPACE]


def keeping() -> list[psutil.Process]:
    """Processes at it, by the name that Ray gives them."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if one.cmdline()[:1] == ["ray::Keeper.keep"]:
                found.append(one)
    return found


def until(is_so: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < ends_s, (serve.status().applications, kept())
        time.sleep(0.2)


def test_it_is_deleted_after_its_driver_was_killed(ray_cluster: str) -> None:
    command = [sys.executable, "-c", DRIVER, ray_cluster, APP]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "deployed\n"
    assert APP in serve.status().applications
    until(lambda: len(keeping()) == 1)
    (first,) = keeping()
    first.kill()  # as when its node is lost
    until(lambda: any(one != first for one in keeping()))
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    until(lambda: APP not in serve.status().applications and not kept())


def test_the_next_driver_takes_it_over_at_once(ray_cluster: str) -> None:
    with served_app(APP, shared_cluster=True):
        for _ in range(3):  # as if the driver of each had just been killed
            with served_app(APP, shared_cluster=True):
                assert kept() == [f"keeper of {APP}"]
    assert kept() == []
