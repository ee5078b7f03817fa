"""Builders of what stands around the controller. Every argument of a record has a valid default."""

import json
from collections.abc import Callable
from pathlib import Path

from actors.stats import EngineCounts, EngineStats, Gauges
from cluster.checkpoints import Checkpoints
from cluster.frontier import FrontierState
from cluster.grading import Grader
from cluster.track.status import Status
from cluster.track.timeline import Timeline
from core.config import Config
from core.protocols import ImageModel, Judge
from core.sections.scoring import RenderConfig
from rewards.reward import DualReward


def make_grader(judge: Judge, image_model: ImageModel) -> Grader:
    return Grader(
        reward=DualReward(judge=judge, text_weight=0.5, na_rule="renormalise"),
        image_model=image_model,
        render=RenderConfig(),
        masked_reasons=(),
        timeline=Timeline(lambda span: None),
    )


def save_whole(
    checkpoints: Checkpoints,
    *,
    state: FrontierState,
    config: Config,
    save_learner: Callable[[str], int],
) -> Path:
    """Begun and finished at once, for a learner that has written when `save_learner` returns."""
    checkpoints.begin(state=state, config=config, save_learner=save_learner)
    path = checkpoints.finish()
    assert path is not None
    return path


def make_status(**changes: object) -> Status:
    values: dict[str, object] = {
        "step": 3,
        "total_steps": 10,
        "stage": "render",
        "reward": 0.4,
        "num_scored": 5,
        "groups_finished": 2,
        "groups_per_step": 8,
        "in_flight": {"judge": 1, "rollout": 12, "tool": 0},
        "oldest_item": "render 7.2.0",
        "oldest_age_s": 12.4,
        "tool_calls": 200,
        "cached_tool_calls": 150,
        "failures": {},
    }
    return Status(**(values | changes))  # type: ignore[arg-type]


def make_engine_stats(*, sampled: int, kv: float = 0.0, waiting: int = 0) -> EngineStats:
    counts = EngineCounts(
        requests=sampled // 10,
        prompt_tokens=2 * sampled,
        cached_tokens=sampled,
        sampled_tokens=sampled,
        update_s=sampled / 1000,
    )
    return counts.stats(num_running=4, gauges=Gauges(num_waiting=waiting, kv_usage=kv))


def write_safetensors(folder: Path, *, shapes: list[list[int]]) -> None:
    """A weight file of these shapes: its header alone, which tells the size."""
    folder.mkdir()
    header = {f"t{i}": {"shape": shape} for i, shape in enumerate(shapes)}
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
