"""A whole nano run in which a process of each kind is killed at work, one by one or at once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.check.audit import audit_run
from cluster.launch import launch
from cluster.track.status import StepReport
from core.config import load_config
from tests.chaos.victims import AT_ONCE, ONE_BY_ONE, Reaper, Victim
from tests.waiting import deadline

STEP_S = 120
"""Patience with one step, a start of a lost process included; it takes 10 s."""
STALL_S = 300

pytestmark = [
    pytest.mark.ray,
    pytest.mark.integration,
    pytest.mark.usefixtures("ray_cluster"),
]


@pytest.mark.chaos
def test_a_run_outlives_one_death_of_each_kind(tmp_path: Path) -> None:
    run_through_deaths(tmp_path, ONE_BY_ONE)


@pytest.mark.soak
def test_a_run_outlives_four_deaths_of_each_kind(tmp_path: Path) -> None:
    run_through_deaths(tmp_path, ONE_BY_ONE * 4)


@pytest.mark.soak
def test_a_run_outlives_deaths_at_once(tmp_path: Path) -> None:
    """As when a node is lost; and that of who would start a dead one again."""
    run_through_deaths(tmp_path, AT_ONCE)


def run_through_deaths(folder: Path, deaths: Sequence[tuple[Victim, ...]]) -> None:
    """In every step but the first some die; the run ends at its step, and its audit is sound."""
    steps = len(deaths) + 1
    config = load_config(
        "nano",
        overrides=[
            "run.name=chaos",
            f"run.root={folder}",
            "rollout.kv_cache_gib=0.2",
            "rollout.max_sequences=16",
            "render.timeout_s=30",
            f"train.steps={steps}",
            "train.groups_per_step=2",
            "train.group_size=4",
            "train.max_staleness=1",
            "train.checkpoint_every=2",
            "train.max_reissues=4",
            f"train.stall_timeout_s={STALL_S}",
        ],
    )
    rounds = iter(deaths)
    reapers: list[Reaper] = []
    with deadline(STEP_S * steps, of="the run"), launch(config) as system:

        def on_step(report: StepReport) -> None:
            if report.step < steps:
                reapers.extend(Reaper(system, victim) for victim in next(rounds, ()))

        system.train(on_step=on_step)
        assert system.step == steps
    for reaper in reapers:
        reaper.join()
    assert [reaper.killed for reaper in reapers] == [True for dying in deaths for _ in dying]
    audit = audit_run(config.run_dir)
    assert (audit.lost, audit.repeated, audit.false_zeros) == ((), (), ())
    assert audit.is_sound
    assert (audit.steps, audit.consumed) == (steps, 2 * steps)
