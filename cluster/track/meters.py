"""What the engines and the services count of themselves, as metrics of a step.

Engines are looked at every few seconds, because at the end of a step they are often empty: their
gauges become a mean and a peak over the step, their counters the difference to the last step. The
services' dollars are asked for once a step. Both also go to Prometheus (prometheus.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from actors.stats import EngineStats
from cluster.track.spending import Spending
from cluster.track.status import Status
from core.metrics import Metrics, Reduce

SAMPLE_S = 2.0

EngineStatsOf = Mapping[str, EngineStats]
"""By name of the worker."""


class Meters(Protocol):
    """What the controller asks."""

    async def watch(self, status: Callable[[], Status]) -> None:
        """Look at the engines again and again; one that is away is left out."""
        ...

    async def end_step(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """More metrics of the step that ends with these. Never waits long."""
        ...


class _NoMeters:
    async def watch(self, status: Callable[[], Status]) -> None:
        pass

    async def end_step(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        return {}


NO_METERS: Meters = _NoMeters()
"""Where there are no engines and no services to ask."""


class Exporter(Protocol):
    """Where numbers go that are looked at while the run goes on."""

    def sample(self, status: Status, engines: EngineStatsOf) -> None: ...

    def step(self, metrics: Mapping[str, float]) -> None: ...


class RunMeters:
    """Implements Meters over rollout workers and services."""

    def __init__(
        self,
        *,
        engine_stats: Callable[[], Awaitable[EngineStatsOf]],
        spending: Spending,
        exporter: Exporter,
    ) -> None:
        self._engine_stats = engine_stats
        self._spending = spending
        self._exporter = exporter
        self._gauges = Metrics()
        self._latest: dict[str, EngineStats] = {}
        self._counted: dict[str, EngineStats] = {}
        """The latest of every worker at the end of the last step."""

    async def watch(self, status: Callable[[], Status]) -> None:
        while True:
            await self.sample(status())
            await asyncio.sleep(SAMPLE_S)

    async def sample(self, status: Status) -> None:
        self._exporter.sample(status, await self._look())

    async def _look(self) -> EngineStatsOf:
        engines = await self._engine_stats()
        self._latest |= engines
        for stats in engines.values():
            _add_gauges(self._gauges, stats)
        return engines

    async def end_step(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        await self._look()  # a short step has no other sample
        engines = {**self._gauges.flush(), **self._counts(seconds=metrics["seconds/step"])}
        more = {f"engine/{name}": value for name, value in engines.items()}
        more |= await self._dollars(metrics)
        self._exporter.step({**metrics, **more})
        return more

    def _counts(self, *, seconds: float) -> Mapping[str, float]:
        """Of all workers together since the last step."""
        sums = Metrics()
        for name, stats in self._latest.items():
            _add_counts(sums, stats, _since(stats, self._counted.get(name)))
        self._counted = dict(self._latest)
        counts = sums.flush()
        if seconds and "sampled_tokens" in counts:
            counts["tokens_per_s"] = counts["sampled_tokens"] / seconds
        return counts

    async def _dollars(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Since the last count, so that an evaluation before the step is not the step's."""
        before = self._spending.totals
        now = await self._spending.count()
        dollars = {kind: usd - before.get(kind, 0.0) for kind, usd in now.items()}
        step_usd = sum(dollars.values())
        dollars |= {"step": step_usd, "run": self._spending.total_usd}
        earned = metrics.get("reward/mean", 0.0) * metrics.get("members/scored", 0.0)
        if earned > 0:
            dollars["per_reward_point"] = step_usd / earned
        return {f"dollars/{name}": usd for name, usd in dollars.items()}


def _since(stats: EngineStats, before: EngineStats | None) -> EngineStats | None:
    """What to count from; None: from nothing, as for an engine that has been started again."""
    return before if before and before.num_requests <= stats.num_requests else None


def _add_gauges(metrics: Metrics, stats: EngineStats) -> None:
    gauges = {
        "kv_use": stats.kv_usage,
        "running": stats.num_running,
        "waiting": stats.num_waiting,
        "preempted": stats.num_preempted,
    }
    for name, value in gauges.items():
        if value is not None:
            metrics.add(name, value)
            metrics.add(f"{name}_max", value, Reduce.MAX)


def _add_counts(metrics: Metrics, stats: EngineStats, before: EngineStats | None) -> None:
    """Sums over the workers."""
    for name in ("prompt_tokens", "cached_tokens", "sampled_tokens"):
        then = getattr(before, f"num_{name}") if before else 0
        metrics.add(name, getattr(stats, f"num_{name}") - then, Reduce.SUM)
    metrics.add("update_s", stats.update_s - (before.update_s if before else 0.0), Reduce.SUM)
