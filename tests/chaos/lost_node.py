"""A nano run on two raylets; the second is killed at work, a third has room. A process of its own:

python -m tests.chaos.lost_node FOLDER    # prints one JSON object as its last line
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError

from actors.runtime_env import worker_env
from cluster.launch import System, launch
from cluster.track.status import StepReport
from core.config import Config, load_config

STEPS = 3
DEADLINE_S = 900.0


def main() -> None:
    folder = Path(sys.argv[1])
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=2, object_store_memory=300 * 1024**2)
        env = worker_env(Config()) | {"PYTHONPATH": os.getcwd(), "HF_HUB_OFFLINE": "1"}
        ray.init(cluster.address, runtime_env={"env_vars": env}, log_to_driver=False)
        second = cluster.add_node(num_cpus=2, object_store_memory=300 * 1024**2)
        cluster.wait_for_nodes()
        print(json.dumps(play(folder, cluster=cluster, doomed=second)))
    finally:
        ray.shutdown()
        cluster.shutdown()


def play(folder: Path, *, cluster: Cluster, doomed: Any) -> dict[str, object]:
    config = load_config(
        "nano",
        overrides=[
            *("run.name=node", f"run.root={folder}"),
            *("rollout.kv_cache_gib=0.2", "rollout.max_sequences=16", "rollout.num_workers=2"),
            # Together they need more than half of a node, so that Ray spreads them over both.
            *("rollout.num_cpus_per_worker=0.9", "learner.num_cpus=0.4"),
            *(f"train.steps={STEPS}", "train.groups_per_step=2", "train.group_size=4"),
            *("train.checkpoint_every=1", "train.max_reissues=4", "train.max_staleness=1"),
        ],
    )
    with launch(config) as system:
        before = nodes_of_workers(system)
        cluster.add_node(num_cpus=2, object_store_memory=300 * 1024**2)

        def kill_when_busy() -> None:
            """SIGKILL to the raylet, whose workers follow it."""
            while not system.status().in_flight.get("rollout"):
                time.sleep(0.01)
            (info,) = doomed.all_processes["raylet"]
            os.kill(info.process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_busy, daemon=True)

        def on_step(_: StepReport) -> None:
            if killer.ident is None:  # step 1 comes again when the learner lived on that node
                killer.start()

        system.train(on_step=on_step)
        killer.join()
        after = nodes_of_workers(system)
        return {
            "steps": system.step,
            "workers_on_the_lost_node": before.count(doomed.node_id),
            "workers_left_there": after.count(doomed.node_id),
            "workers": len(after),
        }


def nodes_of_workers(system: System) -> list[str]:
    """Waits for workers that are away."""
    give_up_s = time.monotonic() + DEADLINE_S
    while True:
        calls = [one.apply.remote(_node_id) for one in system.algorithm.rollout_workers]
        try:
            return list(ray.get(calls, timeout=DEADLINE_S))
        except RayActorError:
            if time.monotonic() > give_up_s:
                raise
        time.sleep(1.0)


def _node_id(worker: object) -> str:
    return str(ray.get_runtime_context().get_node_id())


if __name__ == "__main__":
    main()
