"""Random schedules over the real controller, on a simulated clock: whatever lasts however long and
whatever dies, staleness keeps its bound, nothing waits for ever, and every task ends once."""

import tempfile
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.check.audit import audit_run, endings_of
from cluster.evaluate import EvalResult
from cluster.members import oldest_version
from cluster.track.recorder import EVENTS, METRICS, read_rows
from tests.builders import make_task
from tests.fakes.scheduled import HELD_OUT, Odds, ScheduledRun, scheduled_config, seconds_of

often = st.sampled_from((0.0, 0.1, 0.4))
odds = st.builds(
    Odds,
    seed=st.integers(0, 10**6),
    failed_episode=often,
    hopeless_episode=st.sampled_from((0.0, 0.1)),
    lost_worker=st.sampled_from((0.0, 0.1, 0.3)),
    failed_render=often,
    failed_verdict=st.sampled_from((0.0, 0.1)),
    lost_learner=st.sampled_from((0.0, 0.1, 0.3)),
    equal_scores=often,
    tail=st.sampled_from((0.0, 0.8, 1.6)),
)


@settings(max_examples=40, deadline=None)
@given(
    odds=odds,
    groups_per_step=st.integers(1, 4),
    group_size=st.integers(2, 4),
    oversample=st.sampled_from((0, 0, 2)),
    max_staleness=st.integers(0, 4),
    max_parallel_episodes=st.integers(1, 20),
    eval_every=st.integers(0, 3),
    replicas=st.sampled_from((1, 2, 8)),
    lanes=st.sampled_from((1, 2, 8)),
    steps=st.integers(1, 6),
)
def test_any_schedule_ends_keeps_its_bound_and_loses_nothing(
    odds: Odds,
    groups_per_step: int,
    group_size: int,
    oversample: int,
    max_staleness: int,
    max_parallel_episodes: int,
    eval_every: int,
    replicas: int,
    lanes: int,
    steps: int,
) -> None:
    config = scheduled_config(
        groups_per_step=groups_per_step,
        group_size=group_size,
        oversample=oversample,
        max_staleness=max_staleness,
        max_parallel_episodes=max_parallel_episodes,
        eval_every=eval_every,
        max_empty_batches=100,
        stall_timeout_s=100_000.0,
    )
    with tempfile.TemporaryDirectory(prefix="schedule-") as name:
        run = ScheduledRun(Path(name), odds=odds, config=config, replicas=replicas, lanes=lanes)
        assert run.train(until_step=steps)
        audit = audit_run(Path(name))
    assert audit.is_sound, audit
    assert (audit.steps, audit.consumed) == (steps, steps * groups_per_step)
    assert run.learner.batch_sizes == {groups_per_step}
    assert run.learner.stalest <= max_staleness
    held_out_places = config.eval.max_parallel_episodes if eval_every else 0
    assert run.pool.most_running <= max_parallel_episodes + held_out_places
    check_order(run.pool.events)
    check_evaluations(run.evaluations)
    if eval_every and not odds.lost_learner:
        evaluated = [evaluation.policy_version for evaluation in run.evaluations]
        assert evaluated == list(range(eval_every, steps + 1, eval_every))


def check_order(events: list[tuple[str, int]]) -> None:
    """A step makes the version after the one that was applied last, or is done again."""
    applied = 0
    for name, version in events:
        if name == "step":
            assert version == applied + 1
        elif name == "apply_weights":
            applied = version


def check_evaluations(evaluations: list[EvalResult]) -> None:
    """Every held-out task was played, and by one version of the policy."""
    for evaluation in evaluations:
        assert len(evaluation.members) == len(HELD_OUT)
        played = [m.trajectory for m in evaluation.members if m.trajectory]
        assert {oldest_version(trajectory) for trajectory in played} <= {evaluation.policy_version}


@pytest.mark.parametrize(("replicas", "lanes"), [(1, 8), (8, 1)])
def test_episodes_wait_where_their_renders_or_verdicts_would(
    tmp_path: Path, replicas: int, lanes: int
) -> None:
    """Fresher tokens and younger queues, and the pool is as busy."""
    kind = "render" if replicas == 1 else "judge"
    config = scheduled_config(
        group_size=6,
        max_staleness=4,
        max_parallel_episodes=60,
        stall_timeout_s=100_000.0,
    )
    busy, ages_s, staleness = [], [], []
    for is_balanced in (True, False):
        run = ScheduledRun(
            tmp_path / str(is_balanced),
            odds=Odds(tail=0.3),
            config=config,
            replicas=replicas,
            lanes=lanes,
            is_balanced=is_balanced,
        )
        assert run.train(until_step=25)
        rows = read_rows(tmp_path / str(is_balanced) / METRICS)
        steps = [row for row in rows if "staleness/mean" in row][5:]
        busy.append(fmean(row[f"pools/{kind}_busy"] for row in steps))
        ages_s.append(fmean(row[f"pools/{kind}_oldest_s"] for row in steps))
        staleness.append(fmean(row["staleness/mean"] for row in steps))
    assert busy == pytest.approx([1.0, 1.0], abs=0.01)
    assert ages_s[0] < 0.8 * ages_s[1]
    assert staleness[0] < staleness[1] - 0.2


def test_in_sync_mode_no_episode_waits_for_renders(tmp_path: Path) -> None:
    """The learner waits for all that is played; to hold some of it back would take longer."""
    config = scheduled_config(
        groups_per_step=6,
        group_size=6,
        max_staleness=0,
        max_parallel_episodes=16,
        stall_timeout_s=100_000.0,
    )
    seconds = []
    for is_balanced in (True, False):
        folder = tmp_path / str(is_balanced)
        run = ScheduledRun(
            folder, odds=Odds(tail=1.5), config=config, replicas=2, is_balanced=is_balanced
        )
        assert run.train(until_step=10)
        rows = read_rows(folder / METRICS)
        seconds.append(sum(row["seconds/step"] for row in rows if "seconds/step" in row))
    assert seconds[0] == seconds[1] > 0


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), max_staleness=st.integers(0, 3))
def test_two_runs_of_one_seed_have_the_same_schedule(seed: int, max_staleness: int) -> None:
    odds = Odds(seed=seed, failed_episode=0.1, equal_scores=0.2)
    config = scheduled_config(max_staleness=max_staleness)
    rows = []
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="schedule-") as name:
            ScheduledRun(Path(name), odds=odds, config=config).train(until_step=3)
            rows.append(list(read_rows(Path(name) / EVENTS)))
    assert rows[0] == rows[1]


def test_a_run_that_is_killed_at_200_points_ends_every_task_once(tmp_path: Path) -> None:
    config = scheduled_config(max_staleness=2, stall_timeout_s=100_000.0)
    tail = 1.2
    for number in range(200):
        odds = Odds(seed=number, failed_episode=0.05, equal_scores=0.1, tail=tail)
        run = ScheduledRun(tmp_path, odds=odds, config=config)
        # Long enough for a checkpoint now and then, short enough to end anywhere in a step.
        assert not run.train(until_step=1000, kill_at_s=15.0 + (number * 37.7) % 400)
    run = ScheduledRun(tmp_path, odds=Odds(seed=200, tail=tail), config=config)
    assert run.train(until_step=run.step + 4)
    audit = audit_run(tmp_path)
    assert audit.is_sound, audit
    assert (audit.starts, audit.consumed) == (201, 2 * audit.steps)
    assert audit.steps >= 40, "the kills leave hardly any progress to look at"
    # No bias to short episodes: the tasks that ended are all of those that began before the newest
    # one, however long theirs were. Taking whatever ends first would leave long ones out.
    endings, _, _ = endings_of(read_rows(tmp_path / EVENTS))
    assert set(range(max(endings) - 10)) <= set(endings)
    ended = [seconds_of(make_task(ordinal), odds) for ordinal in endings]
    every = [seconds_of(make_task(ordinal), odds) for ordinal in range(max(endings) + 1)]
    assert sum(ended) / len(ended) == pytest.approx(sum(every) / len(every), rel=0.02)
