"""The controller of benchmarks/pipeline.py on a simulated clock: no Ray and no waiting.

Speed and processor time are those of the steps after the warm-up, when as much is under way at the
end as at the beginning; a trajectory counts when its episode ends, consumed by then or not.
"""

import asyncio
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.latencies import (
    LatencyJudge,
    LatencyLearner,
    LatencyReplica,
    LatencyWorker,
    Profile,
    Tasks,
)
from benchmarks.pipeline_parts import (
    EPISODES,
    MODES,
    WARM_UP_STEPS,
    make_config,
    make_controller,
    make_parts,
)
from cluster.concurrency import ReadEngines
from cluster.controller import Controller
from cluster.parts import Mode
from cluster.track.status import StepReport
from core.records import Group, LearnerReport, RolloutId, Task, Trajectory, WeightUpdate
from tests.simulated_clock import SimulatedLoop

TAILS = (0.3, 0.6, 0.9, 1.2)
"""Sigmas of a turn's log-normal distribution."""
IN_FLIGHT = (8, 64, 512)
TRAJECTORIES = 2048
"""That the measured steps consume, however many are in flight."""
HELD_OUT_TASKS = 48
EVALUATE_EVERY = 4
"""Steps of 8 groups of 6 episodes: a fifth of all episodes are held-out."""
AfterStep = Callable[[Controller, int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    at_s: float
    """Of the simulated clock."""
    cpu_s: float
    """Of this process."""
    played: int
    """Episodes that have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A run from its first task to its last step."""

    ends: tuple[StepEnd, ...]
    """Of each step; the clock began at 0."""
    reports: tuple[StepReport, ...]


def simulate(
    profile: Profile,
    *,
    max_staleness: int,
    steps: int,
    episodes: int = EPISODES,
    after_step: AfterStep | None = None,
) -> tuple[float, float]:
    """Groups per minute of simulated time, and real processor ms per trajectory."""
    ends = simulate_run(
        profile,
        max_staleness=max_staleness,
        steps=WARM_UP_STEPS + max_staleness + steps,
        episodes=episodes,
        after_step=after_step,
    ).ends
    first, last = ends[-1 - steps], ends[-1]
    groups_per_min = steps * profile.groups_per_step / (last.at_s - first.at_s) * 60
    cpu_ms = (last.cpu_s - first.cpu_s) * 1000 / (last.played - first.played)
    return round(groups_per_min, 3), round(cpu_ms, 3)


def simulate_run(
    profile: Profile,
    *,
    max_staleness: int,
    steps: int,
    episodes: int = EPISODES,
    after_step: AfterStep | None = None,
    read_engines: ReadEngines | None = None,
) -> Simulated:
    config = make_config(profile, max_staleness=max_staleness, steps=10_000, episodes=episodes)
    loop = SimulatedLoop()
    ends: list[StepEnd] = []
    with tempfile.TemporaryDirectory(prefix="pipeline-") as name:
        replicas = [LatencyReplica(profile) for _ in range(profile.render_replicas)]
        parts = make_parts(
            config,
            profile,
            Path(name),
            judge=LatencyJudge(profile),
            paint=[one.paint for one in replicas],
            clock=loop.time,
        )
        pool = SimulatedPool([LatencyWorker(profile) for _ in range(profile.rollout_workers)])
        learner = NotedLearner(profile, loop, pool, ends)
        controller = make_controller(
            parts, pool=pool, learner=learner, loop=loop, read_engines=read_engines
        )
        controller.start()
        try:
            reports = controller.run(_train(controller, steps=steps, after_step=after_step))
        finally:
            controller.close()
    return Simulated(ends=tuple(ends), reports=reports)


async def _train(
    controller: Controller, *, steps: int, after_step: AfterStep | None
) -> tuple[StepReport, ...]:
    """On the loop itself: its clock runs on while a call from outside is under way."""
    reports: list[StepReport] = []
    for step in range(1, steps + 1):
        reports += await controller._train(1)
        if after_step is not None:
            await after_step(controller, step)
    return tuple(reports)


class SimulatedPool:
    """Implements cluster.parts.RolloutPool over workers of this process, the least busy first."""

    def __init__(self, workers: Sequence[LatencyWorker]) -> None:
        self._workers = workers
        self._episodes = dict.fromkeys(range(len(workers)), 0)
        self.played = 0

    async def run(self, task: Task, *, rollout_id: RolloutId, mode: Mode) -> Trajectory:
        chosen = min(self._episodes, key=self._episodes.__getitem__)
        self._episodes[chosen] += 1
        try:
            return await self._workers[chosen].run(task, rollout_id, mode)
        finally:
            self._episodes[chosen] -= 1
            self.played += 1

    async def apply_weights(self, update: WeightUpdate, payload: Sequence[Any]) -> None:
        for worker in self._workers:
            await worker.apply_weights([update], [payload])


class NotedLearner(LatencyLearner):
    """Notes how things stand when each of its steps ends."""

    def __init__(
        self,
        profile: Profile,
        loop: asyncio.AbstractEventLoop,
        pool: SimulatedPool,
        ends: list[StepEnd],
    ) -> None:
        super().__init__(profile)
        self._loop = loop
        self._pool = pool
        self._ends = ends

    async def step(self, groups: Sequence[Group]) -> LearnerReport:
        report = await super().step(groups)
        now_s, cpu_s = self._loop.time(), time.process_time()
        self._ends.append(StepEnd(at_s=now_s, cpu_s=cpu_s, played=self._pool.played))
        return report


def simulate_tail(profile: Profile, *, steps: int) -> list[dict[str, float]]:
    """Speed over how long the tail of a turn is; its mean stays the same."""
    mean_s = profile.generate_median_s * math.exp(profile.generate_sigma**2 / 2)
    rows = []
    for sigma in TAILS:
        median_s = mean_s / math.exp(sigma**2 / 2)
        bent = replace(profile, generate_sigma=sigma, generate_median_s=median_s)
        speeds = {
            name: simulate(bent, max_staleness=staleness, steps=steps)[0]
            for name, staleness in MODES.items()
        }
        rows.append(
            {"sigma": sigma, **speeds, "async_vs_sync": round(speeds["async"] / speeds["sync"], 3)}
        )
    return rows


def simulate_evaluation(profile: Profile, *, steps: int) -> dict[str, dict[str, float]]:
    """Groups per minute of each mode: without evaluations, with training at rest while one is
    played, and beside training."""

    def held_out(step: int) -> list[Task]:
        """Others each time, since another policy's renders are not in the cache."""
        return [Tasks().task(1000 * step + n) for n in range(HELD_OUT_TASKS)]

    async def alone(controller: Controller, step: int) -> None:
        if step % EVALUATE_EVERY == 0:
            await controller.evaluations.play(held_out(step))

    async def beside(controller: Controller, step: int) -> None:
        if step % EVALUATE_EVERY == 0:
            await controller.evaluations.finish()
            await controller.evaluations.begin(held_out(step))

    ways = {"none": None, "alone": alone, "beside": beside}
    return {
        mode: {
            name: simulate(profile, max_staleness=staleness, steps=steps, after_step=way)[0]
            for name, way in ways.items()
        }
        for mode, staleness in MODES.items()
    }


def simulate_in_flight(profile: Profile) -> dict[str, float]:
    """Real seconds of the processor per trajectory over how many episodes are in flight."""
    costs = {}
    for episodes in IN_FLIGHT:
        wide = replace(
            profile,
            rollout_workers=max(1, episodes // 8),
            render_replicas=max(1, episodes // 8),
            judge_lanes=max(2, episodes // 4),
            groups_per_step=max(2, episodes // 4),
            group_size=8,
        )
        steps = TRAJECTORIES // (wide.groups_per_step * wide.group_size)
        _, cpu_ms = simulate(wide, max_staleness=1, steps=steps, episodes=episodes)
        costs[str(episodes)] = cpu_ms / 1000
    return costs
