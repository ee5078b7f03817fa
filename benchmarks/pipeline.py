"""What it costs to wait: the real controller over engines that are latencies, in each of its modes.

    python -m benchmarks.pipeline --json

The profile stands in benchmarks/latencies.py; all its seconds are divided by `--speedup`. Rollout
workers, image replicas, judge and learner are Ray actors; controller, rollout pool, grader, render
client, judge client and recorder are those of a real run. `stage_by_stage` is the naive way over
the same actors: play the whole batch, draw it, judge it, learn.

`in_flight`, `tail` and `evaluation` run the same controller on a simulated clock (cluster-free, so
no Ray): real seconds of the processor per trajectory with 8, 64 and 512 episodes in flight, the
speed of the modes over how long the tail of a turn is, and what held-out evaluations cost.
`--queues` measures what benchmarks/pipeline_queues.py tells of, and nothing else.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from actors.judge import start_judge
from actors.runtime_env import worker_env
from benchmarks.latencies import (
    LatencyJudge,
    LatencyLearner,
    LatencyReplica,
    LatencyWorker,
    Profile,
    Tasks,
)
from benchmarks.machine import machine
from benchmarks.pipeline_parts import (
    EPISODES,
    MODES,
    WARM_UP_STEPS,
    Parts,
    make_config,
    make_controller,
    make_parts,
)
from benchmarks.pipeline_queues import measure_queues
from benchmarks.pipeline_simulated import (
    simulate_evaluation,
    simulate_in_flight,
    simulate_tail,
)
from cluster.parts import RemoteLearner, RolloutPool
from cluster.ray_pool import RayPool
from cluster.sent_groups import SentGroups
from core.config import Config, default_environment
from core.protocols import Judge
from core.records import (
    Answer,
    Group,
    LearnerReport,
    Member,
    RenderRequest,
    RolloutId,
    Task,
    Trajectory,
    WeightUpdate,
)

EMPTY_CALLS = 4_000
PACED_CALLS = 200
CALLS_OF_A_TRAJECTORY = 4
"""An episode, a render and two verdicts; the calls of a step are shared by 48 trajectories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    groups_per_min: float
    """Of the profile's minutes."""
    busy: dict[str, float]
    """Of each pool: the share of its own capacity that was used."""
    driver_cpu_ms: float = 0.0
    """Processor time of the driver's process per trajectory, all of Ray's threads included."""
    ray_cpu_ms: float = 0.0
    """Of this, what Ray takes for as many calls at the same pace when they carry nothing."""


class ReadingLearner(LatencyLearner):
    """Reads the groups out of the object store, as the real one does."""

    async def begin(self, groups: Sequence[Any]) -> None:
        await super().begin(await asyncio.gather(*groups))

    async def step(self, groups: Sequence[Any]) -> LearnerReport:
        return await super().step(await asyncio.gather(*groups))


class RayLatencyLearner:
    """Implements cluster.parts.RemoteLearner over an actor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._groups = SentGroups()

    async def begin(self, groups: Sequence[Group]) -> None:
        await self._handle.begin.remote(self._groups.refs(groups))

    async def step(self, groups: Sequence[Group]) -> LearnerReport:
        report: LearnerReport = await self._handle.step.remote(self._groups.refs(groups))
        self._groups.forget()
        return report

    async def publish(self) -> tuple[WeightUpdate, list[Any]]:
        update, payload = await self._handle.publish.remote()
        return update, [ray.put(array) for array in payload]

    async def save(self, folder: str) -> int:
        version: int = await self._handle.save.remote(folder)
        return version

    async def saved(self) -> None:
        """At once: `save` has written it."""

    async def load(self, folder: str) -> None:
        await self._handle.load.remote(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What waits, as Ray actors: new ones for each measurement."""

    workers: list[Any]
    replicas: list[Any]
    judge_handle: Any
    judge: Judge
    learner: Any

    async def busy_s(self) -> dict[str, float]:
        """Seconds of the profile, added up over each pool."""
        workers = await asyncio.gather(*(one.busy_s.remote() for one in self.workers))
        replicas = await asyncio.gather(*(one.busy_s.remote() for one in self.replicas))
        return {"rollout": sum(workers), "render": sum(replicas)}


@contextmanager
def engines(profile: Profile) -> Iterator[Engines]:
    def start(kind: type, number: int) -> list[Any]:
        actor = ray.remote(kind).options(num_cpus=0, max_concurrency=1000)
        return [actor.remote(profile) for _ in range(number)]

    judge_handle, judge = start_judge(lambda: LatencyJudge(profile), num_cpus=0)
    started = Engines(
        workers=start(LatencyWorker, profile.rollout_workers),
        replicas=start(LatencyReplica, profile.render_replicas),
        judge_handle=judge_handle,
        judge=judge,
        learner=start(ReadingLearner, 1)[0],
    )
    ray.get([one.busy_s.remote() for one in (*started.workers, *started.replicas)])
    try:
        yield started
    finally:
        for handle in (*started.workers, *started.replicas, judge_handle, started.learner):
            ray.kill(handle)


def measure_mode(profile: Profile, *, max_staleness: int, steps: int) -> Measured:
    """Steps after the warm-up, in a folder that is thrown away."""
    config = make_config(profile, max_staleness=max_staleness, steps=10_000, episodes=EPISODES)
    with tempfile.TemporaryDirectory(prefix="pipeline-") as name, engines(profile) as actors:
        paint = [one.paint.remote for one in actors.replicas]
        parts = make_parts(config, profile, Path(name), judge=actors.judge, paint=paint)
        learner = RayLatencyLearner(actors.learner)
        controller = make_controller(parts, pool=RayPool(actors.workers), learner=learner)
        controller.start()
        try:
            # Until work is under way for every step that the bound allows, the pools fill up.
            controller.advance(steps=WARM_UP_STEPS + config.train.max_staleness)
            before = controller.run(actors.busy_s())
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            reports = controller.advance(steps=steps)
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            after = controller.run(actors.busy_s())
        finally:
            controller.close()
        groups = steps * profile.groups_per_step
        trajectories = groups * profile.group_size
        pace = CALLS_OF_A_TRAJECTORY * trajectories / wall_s
        call_cpu_s = asyncio.run(ray_cpu_s(actors, per_s=pace))
    modelled_s = wall_s * profile.speedup
    busy = {
        "rollout": (after["rollout"] - before["rollout"]) / profile.rollout_workers,
        "render": (after["render"] - before["render"]) / profile.render_replicas,
        "learner": len(reports) * profile.learn_s,
    }
    return Measured(
        groups_per_min=round(groups / modelled_s * 60, 3),
        busy={pool: round(seconds / modelled_s, 3) for pool, seconds in busy.items()},
        driver_cpu_ms=round(cpu_s * 1000 / trajectories, 2),
        ray_cpu_ms=round(CALLS_OF_A_TRAJECTORY * call_cpu_s * 1000, 2),
    )


def measure_stage_by_stage(profile: Profile, *, steps: int) -> float:
    """Groups per minute of a loop that waits for each stage of the whole batch."""
    config = make_config(profile, max_staleness=0, steps=steps, episodes=EPISODES)
    with tempfile.TemporaryDirectory(prefix="pipeline-") as name, engines(profile) as actors:
        paint = [one.paint.remote for one in actors.replicas]
        parts = make_parts(config, profile, Path(name), judge=actors.judge, paint=paint)
        pool, learner = RayPool(actors.workers), RayLatencyLearner(actors.learner)
        wall_s = time.perf_counter()
        asyncio.run(stage_by_stage(parts, profile, pool=pool, learner=learner, steps=steps))
        wall_s = time.perf_counter() - wall_s
        parts.recorder.close()
    return round(steps * profile.groups_per_step / (wall_s * profile.speedup) * 60, 3)


async def stage_by_stage(
    parts: Parts, profile: Profile, *, pool: RolloutPool, learner: RemoteLearner, steps: int
) -> None:
    """The naive loop: nothing of a batch goes on before all of it has come as far."""
    room = asyncio.Semaphore(EPISODES)

    async def play(task: Task, index: int) -> Trajectory:
        async with room:
            rollout_id = RolloutId(ordinal=task.ordinal, index=index)
            played = await pool.run(task, rollout_id=rollout_id, mode="train")
        assert isinstance(played, Trajectory), played
        return played

    for step in range(steps):
        first = step * profile.groups_per_step
        tasks = [Tasks().task(first + number) for number in range(profile.groups_per_step)]
        played = await asyncio.gather(
            *(play(task, index) for task in tasks for index in range(profile.group_size))
        )
        answers = [one.answer for one in played if isinstance(one.answer, Answer)]
        rendered = await asyncio.gather(*(parts.render.render(request_of(a)) for a in answers))
        reward = parts.reward
        texts = await asyncio.gather(
            *(
                reward.text_parts(task=one.task, answer=answer)
                for one, answer in zip(played, answers, strict=True)
            ),
        )
        images = await asyncio.gather(
            *(
                reward.image_parts(task=one.task, rendered=image)
                for one, image in zip(played, rendered, strict=True)
            ),
        )
        members = [
            Member(
                rollout_id=one.rollout_id,
                trajectory=one,
                rendered=picture,
                outcome=reward.blend(text_parts=text, image_parts=image),
            )
            for one, picture, text, image in zip(played, rendered, texts, images, strict=True)
        ]
        size = profile.group_size
        groups = [
            Group(task=task, members=tuple(members[n * size : (n + 1) * size]))
            for n, task in enumerate(tasks)
        ]
        await learner.step(groups)
        update, payload = await learner.publish()
        await pool.apply_weights(update, payload)


def request_of(answer: Answer) -> RenderRequest:
    return RenderRequest(
        prompt=answer.gen_prompt, references=answer.chosen, seed=0, steps=4, model="latency"
    )


async def empty_calls(*, calls: int) -> tuple[float, float]:
    """Calls per second of an actor that does nothing, and processor ms of a call at the caller."""
    actor = ray.remote(Empty).options(num_cpus=0, max_concurrency=1000).remote()
    await actor.nothing.remote()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in range(calls // EPISODES):
        await asyncio.gather(*(actor.nothing.remote() for _ in range(EPISODES)))
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    ray.kill(actor)
    done = calls // EPISODES * EPISODES
    return done / wall_s, cpu_s * 1000 / done


async def ray_cpu_s(actors: Engines, *, per_s: float) -> float:
    """Processor seconds of a call that carries nothing, at the pace of a run: the driver's threads
    are woken for each. What the pacing takes, and Ray without any call, is not counted as Ray's."""
    handles = itertools.cycle((*actors.workers, *actors.replicas))

    async def call() -> None:
        await next(handles).busy_s.remote()

    return await paced_cpu_s(call, per_s=per_s) - await paced_cpu_s(Empty().nothing, per_s=per_s)


async def paced_cpu_s(call: Callable[[], Coroutine[Any, Any, None]], *, per_s: float) -> float:
    cpu_s = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(PACED_CALLS):
            group.create_task(call())
            await asyncio.sleep(1 / per_s)
    return (time.process_time() - cpu_s) / PACED_CALLS


class Empty:
    async def nothing(self) -> None:
        """What Ray itself costs."""


def ratio(speeds: dict[str, float]) -> float:
    return round(speeds["async"] / speeds["sync"], 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--speedup", type=float, default=20, help="what all latencies are cut by")
    parser.add_argument("--steps", type=int, default=4, help="measured, of 8 groups of 6 each")
    parser.add_argument("--simulated", action="store_true", help="only what needs no Ray")
    parser.add_argument("--queues", action="store_true", help="only what the rule of queues does")
    arguments = parser.parse_args()
    say = (lambda line: None) if arguments.json else print
    profile = Profile(speedup=arguments.speedup)
    result: dict[str, Any] = {
        "benchmark": "pipeline",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "profile": asdict(profile),
        "steps": arguments.steps,
    }
    if arguments.queues:
        print(json.dumps(result | {"queues": measure_queues(steps=arguments.steps, say=say)}))
        return
    if not arguments.simulated:
        result |= measure(profile, steps=arguments.steps, say=say)
    calm = replace(profile, speedup=1.0)
    result["tail"] = simulate_tail(calm, steps=20)
    say(f"tail: {result['tail']}")
    result["evaluation"] = simulate_evaluation(calm, steps=20)
    say(f"evaluation: {result['evaluation']}")
    result["in_flight"] = simulate_in_flight(calm)
    say(f"in_flight: {result['in_flight']}")
    print(json.dumps(result))


def measure(profile: Profile, *, steps: int, say: Callable[[str], None]) -> dict[str, Any]:
    default_environment("RAY_AUTH_MODE", "disabled")
    default_environment("RAY_worker_niceness", "0")
    root = str(Path(__file__).resolve().parent.parent)
    with tempfile.TemporaryDirectory(prefix="pl-", dir="/tmp") as name:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=name,
            runtime_env={"env_vars": worker_env(Config()) | {"PYTHONPATH": root}},
        )
        try:
            calls_per_s, call_ms = asyncio.run(empty_calls(calls=EMPTY_CALLS))
            naive = measure_stage_by_stage(profile, steps=max(1, steps // 2))
            say(f"stage_by_stage: {naive} groups a minute")
            modes: dict[str, Measured] = {}
            for mode, staleness in MODES.items():
                modes[mode] = measure_mode(profile, max_staleness=staleness, steps=steps)
                say(f"{mode}: {modes[mode]}")
        finally:
            ray.shutdown()
    speeds = {mode: one.groups_per_min for mode, one in modes.items()}
    driver_ms, ray_ms = modes["async"].driver_cpu_ms, modes["async"].ray_cpu_ms
    return {
        "groups_per_min": {"stage_by_stage": naive, **speeds},
        "async_vs_sync": ratio(speeds),
        "async_vs_stage_by_stage": round(speeds["async"] / naive, 3),
        "busy": {mode: one.busy for mode, one in modes.items()},
        "bottleneck_fraction": max(modes["async"].busy.values()),
        "driver_cpu_ms": driver_ms,
        "ray_cpu_ms": ray_ms,
        "controller_cpu_ms": round(driver_ms - ray_ms, 2),
        "empty_calls_cpu_ms": round(CALLS_OF_A_TRAJECTORY * call_ms, 2),
        "ray_empty_calls_per_s": round(calls_per_s, 1),
    }


if __name__ == "__main__":
    main()
