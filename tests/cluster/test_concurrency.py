"""Additive increase, multiplicative decrease, over readings of engines."""

from actors.stats import EngineCounts, EngineStats, Gauges
from cluster.concurrency import Concurrency


def engine(**gauges: float) -> EngineStats:
    return EngineCounts().stats(num_running=1, gauges=Gauges(**gauges))  # type: ignore[arg-type]


CALM, FULL = engine(kv_usage=0.3), engine(kv_usage=0.99, num_waiting=2)
BUSY, PREEMPTED = engine(kv_usage=0.99), engine(kv_usage=0.5, num_waiting=1, num_preempted=1)


def test_a_full_cache_with_a_queue_or_a_preemption_takes_a_quarter_away() -> None:
    for short in (FULL, PREEMPTED):
        assert Concurrency(most=64).update([CALM, short], running=64, waiting=9) == 48


def test_a_full_cache_without_a_queue_is_just_well_used() -> None:
    assert Concurrency(most=64).update([BUSY], running=64, waiting=9) == 64


def test_a_decrease_is_given_time_to_work() -> None:
    concurrency = Concurrency(most=64)
    concurrency.update([FULL], running=64, waiting=0)
    assert concurrency.update([FULL], running=60, waiting=0) == 48
    assert concurrency.update([FULL], running=48, waiting=0) == 36


def test_room_is_given_back_one_episode_per_engine_and_only_when_it_is_wanted() -> None:
    concurrency = Concurrency(most=64)
    concurrency.update([FULL], running=64, waiting=0)
    assert concurrency.update([CALM, CALM], running=48, waiting=0) == 48
    assert concurrency.update([CALM, CALM], running=48, waiting=5) == 50
    assert concurrency.update([CALM, BUSY], running=50, waiting=5) == 50


def test_episodes_that_renders_or_verdicts_keep_waiting_need_no_room_of_the_engines() -> None:
    concurrency = Concurrency(most=64)
    concurrency.update([FULL], running=64, waiting=0)
    for _ in range(20):
        assert concurrency.update([CALM], running=13, waiting=50) == 48
    assert concurrency.update([CALM], running=48, waiting=15) == 49


def test_the_number_stays_between_one_per_engine_and_the_most() -> None:
    concurrency = Concurrency(most=8)
    for _ in range(20):
        concurrency.update([FULL, FULL], running=concurrency.number, waiting=0)
    assert concurrency.number == 2
    for _ in range(20):
        concurrency.update([CALM, CALM], running=concurrency.number, waiting=9)
    assert concurrency.number == 8


def test_without_a_reading_nothing_changes() -> None:
    assert Concurrency(most=8).update([], running=8, waiting=9) == 8


def test_an_evaluation_that_fills_the_engines_alone_takes_no_place_away() -> None:
    concurrency = Concurrency(most=64)
    for _ in range(20):
        concurrency.update([FULL, PREEMPTED], running=0, waiting=0)
    assert concurrency.number == 64


def test_it_settles_below_what_the_cache_holds() -> None:
    """An engine that holds 20 episodes and preempts beyond: the number ends near, not far below."""
    concurrency, seen = Concurrency(most=64), []
    for _ in range(200):
        running = concurrency.number
        over = max(0, running - 20)
        reading = engine(kv_usage=min(1.0, running / 20), num_waiting=over, num_preempted=over)
        concurrency.update([reading], running=running, waiting=9)
        seen.append(concurrency.number)
    assert 14 <= min(seen[50:]) <= max(seen[50:]) <= 21
