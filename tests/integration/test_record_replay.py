"""A nano run records its tools over a loopback web, and a later policy replays it with no web.

While it records, its search actor is killed once with SIGKILL in the middle of a step. Then the web
is taken down, the keys are forgotten, and a run that starts from a checkpoint two updates later
replays the recording; the audit compares what both policies were shown, call by call. The full-size
recipe stands in docs/tools.md.
"""

import os
import signal
from pathlib import Path

import pytest
import ray

from cluster.check.audit import audit_run
from cluster.launch import System, launch
from cluster.track.status import StepReport
from core.config import Config, load_config
from envs.fake_web.server import key_variables, nano_web, overrides_for, serving_on_a_thread
from envs.store.store import DamagedError, Store

pytestmark = [
    pytest.mark.ray,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.usefixtures("ray_cluster"),
]

STEPS = 3
WEB = ("tools.search=serper", "tools.image_search=serper", "tools.pages=jina")


def small(root: Path, name: str, *overrides: str) -> Config:
    return load_config(
        "nano",
        overrides=[
            f"run.name={name}",
            f"run.root={root}",
            "rollout.kv_cache_gib=0.2",
            "rollout.max_sequences=16",
            "train.groups_per_step=2",
            "train.group_size=4",
            "train.checkpoint_every=1",
            "eval.num_tasks=8",
            *WEB,
            *overrides,
        ],
    )


def kill_search_actor(system: System) -> int:
    """SIGKILL to its process."""
    (handle,) = system.services.toolbox._handles
    pid = int(ray.get(handle.__ray_call__.remote(lambda actor: os.getpid())))
    os.kill(pid, signal.SIGKILL)
    return pid


def record(config: Config) -> list[int]:
    killed: list[int] = []

    def on_step(report: StepReport) -> None:
        if report.step == 1:
            killed.append(kill_search_actor(system))

    with launch(config) as system:
        system.train(on_step=on_step)
        system.evaluate()
    return killed


def test_a_recorded_run_is_replayed_without_a_web_under_a_later_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = nano_web(tmp_path / "web")
    for name, key in key_variables().items():
        monkeypatch.setenv(name, key)
    with serving_on_a_thread(fake) as address:
        steps = f"train.steps={STEPS}"
        recorded = small(tmp_path, "recorded", "tools.mode=record", steps, *overrides_for(address))
        killed = record(recorded)
    assert len(killed) == 1

    audit = audit_run(recorded.run_dir)
    assert audit.is_sound, audit
    assert (audit.steps, audit.lost, audit.repeated, audit.false_zeros) == (STEPS, (), (), ())
    assert audit.tools.compared_calls > 20
    assert audit.tools.upstream_calls > 0
    assert_whole(recorded.run_dir / "store")

    for name in key_variables():
        monkeypatch.delenv(name)
    replayed = small(
        tmp_path,
        "replayed",
        "tools.mode=replay",
        "tools.on_miss=empty",
        f"tools.store={recorded.run_dir / 'store'}",
        f"policy.path={recorded.run_dir}/checkpoints/step_{STEPS:06d}/learner/policy",
        "train.steps=1",
        *overrides_for(address),  # nobody answers there any more
    )
    with launch(replayed) as system:
        system.train()
        system.evaluate()

    audit = audit_run(replayed.run_dir)
    assert audit.is_sound, audit
    tools = audit.tools
    assert (tools.mode, tools.upstream_calls, tools.different) == ("replay", 0, ())
    assert tools.compared_calls == tools.equal_calls > 10
    assert tools.tool_errors == 0
    assert set(tools.misses) <= {"empty"}


def assert_whole(folder: Path) -> None:
    store = Store.existing(folder)
    assert not [entry for entry in store.entries() if isinstance(entry, DamagedError)]
    store.close()
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
