"""What stands between the engines of benchmarks/latencies.py and the controller of a real run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.render_client import RenderCache, RenderClient
from benchmarks.latencies import LatencyPainter, Profile, Tasks
from cluster.controller import Controller
from cluster.grading import Grader
from cluster.parts import RemoteLearner, RolloutPool
from cluster.track.recorder import JsonlRecorder
from cluster.track.timeline import Timeline
from core.config import Config, build_config
from core.protocols import Judge
from envs.images import FileImageStore
from rewards.reward import DualReward

MODES = {"sync": 0, "one_step_off": 1, "async": 4}
"""`train.max_staleness` of each."""
EPISODES = 64
"""In flight at most, in every mode."""
WARM_UP_STEPS = 1


class NoTools:
    """The controller tells the tools which tasks have ended; there are none here."""

    async def release(self, ordinals: Sequence[int]) -> None:
        """Nothing is kept."""


def make_config(profile: Profile, *, max_staleness: int, steps: int, episodes: int) -> Config:
    train = {
        "groups_per_step": profile.groups_per_step,
        "group_size": profile.group_size,
        "max_staleness": max_staleness,
        "steps": steps,
        "stall_timeout_s": 600.0,
    }
    return build_config({"train": train, "rollout": {"max_parallel_episodes": episodes}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What stands between the controller and the engines."""

    config: Config
    timeline: Timeline
    recorder: JsonlRecorder
    render: RenderClient
    reward: DualReward
    grader: Grader


def make_parts(
    config: Config,
    profile: Profile,
    folder: Path,
    *,
    judge: Judge,
    paint: Sequence[Any],
    clock: Callable[[], float] = time.time,
) -> Parts:
    recorder = JsonlRecorder(folder)
    places = {"render": profile.render_replicas, "judge": profile.judge_lanes}
    timeline = Timeline(recorder.span, places=places, clock=clock)
    render = RenderClient(
        LatencyPainter(paint),
        name="latency",
        max_references=5,
        store=FileImageStore(folder / "images"),
        cache=RenderCache(folder / "renders.sqlite"),
        max_in_flight=2 * profile.render_replicas,
        timeout_s=600.0,
    )
    reward = DualReward(judge=judge, text_weight=0.5, na_rule="renormalise")
    grader = Grader(
        reward=reward,
        image_model=render,
        render=config.render,
        masked_reasons=(),
        timeline=timeline,
    )
    return Parts(
        config=config,
        timeline=timeline,
        recorder=recorder,
        render=render,
        reward=reward,
        grader=grader,
    )


def make_controller(
    parts: Parts, *, pool: RolloutPool, learner: RemoteLearner, **more: Any
) -> Controller:
    return Controller(
        config=parts.config,
        tasks=Tasks(),
        pool=pool,
        toolbox=NoTools(),  # type: ignore[arg-type]
        grader=parts.grader,
        learner=learner,
        recorder=parts.recorder,
        timeline=parts.timeline,
        **more,
    )
