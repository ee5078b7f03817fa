"""Engines' gauges and counters, and the services' dollars, as metrics of a step."""

from pathlib import Path

import pytest

from actors.stats import EngineStats
from cluster.track.meters import EngineStatsOf, RunMeters
from cluster.track.spending import Spending
from tests.builders_cluster import make_engine_stats, make_status
from tests.fakes.meters import MemoryExporter

STEP = {"seconds/step": 10.0, "reward/mean": 0.5, "members/scored": 8.0}


class Scene:
    """Two workers and one judge, whose numbers a test sets."""

    def __init__(self, folder: Path) -> None:
        self.engines: dict[str, EngineStats] = {}
        self.judge_usd = 0.0
        self.exporter = MemoryExporter()
        self.spending = Spending(folder, {"judge": self._judge})
        self.meters = RunMeters(
            engine_stats=self._stats, spending=self.spending, exporter=self.exporter
        )

    async def _judge(self) -> float:
        return self.judge_usd

    async def _stats(self) -> EngineStatsOf:
        return dict(self.engines)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_gauges_are_means_and_peaks_over_the_samples_of_a_step(scene: Scene) -> None:
    for kv, waiting in ((0.2, 0), (0.6, 3)):
        scene.engines = {"a": make_engine_stats(sampled=10, kv=kv, waiting=waiting)}
        await scene.meters.sample(make_status())
    scene.engines = {"a": make_engine_stats(sampled=10, kv=0.1)}
    metrics = await scene.meters.end_step(STEP)
    assert (metrics["engine/kv_use"], metrics["engine/kv_use_max"]) == (pytest.approx(0.3), 0.6)
    assert (metrics["engine/waiting"], metrics["engine/waiting_max"]) == (1, 3)
    assert scene.exporter.steps == [{**STEP, **metrics}]
    assert len(scene.exporter.samples) == 2


async def test_counters_are_differences_summed_over_the_workers(scene: Scene) -> None:
    scene.engines = {"a": make_engine_stats(sampled=100), "b": make_engine_stats(sampled=50)}
    first = await scene.meters.end_step(STEP)
    assert (first["engine/sampled_tokens"], first["engine/tokens_per_s"]) == (150, 15)
    scene.engines = {"a": make_engine_stats(sampled=130), "b": make_engine_stats(sampled=50)}
    second = await scene.meters.end_step(STEP)
    assert second["engine/sampled_tokens"] == 30
    assert second["engine/update_s"] == pytest.approx(0.03)
    scene.engines = {"a": make_engine_stats(sampled=20), "b": make_engine_stats(sampled=50)}
    third = await scene.meters.end_step(STEP)
    assert third["engine/sampled_tokens"] == 20, "a worker that was started again"


async def test_dollars_of_a_step_are_those_since_the_last_count(scene: Scene) -> None:
    scene.judge_usd = 1.0
    await scene.spending.count()  # as after an evaluation
    scene.judge_usd = 3.0
    metrics = await scene.meters.end_step(STEP)
    assert metrics["dollars/judge"] == metrics["dollars/step"] == 2.0
    assert metrics["dollars/run"] == 3.0
    assert metrics["dollars/per_reward_point"] == 2.0 / (0.5 * 8)


async def test_a_step_without_reward_has_no_price_of_it(scene: Scene) -> None:
    assert "dollars/per_reward_point" not in await scene.meters.end_step({"seconds/step": 1.0})
