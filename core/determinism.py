"""Which settings keep a run from being repeatable to the last bit, for `run.deterministic`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.config import Config

STILL_WORLDS = {"nano", "local"}
"""Providers that answer a call the same way every time."""


def refusals(config: "Config") -> list[str]:
    """One clause per setting that has to change, with the value that it must have."""
    return [f"{field} must be {wanted}" for field, wanted, holds in _demands(config) if not holds]


def _demands(config: "Config") -> Iterator[tuple[str, str, bool]]:
    """(field, what it must be, whether it is)."""
    tools, learner = config.tools, config.learner
    providers = {*tools.search, *tools.image_search, *tools.pages}
    still = providers <= STILL_WORLDS and tools.summariser is None
    yield "train.max_staleness", "0", config.train.max_staleness == 0
    yield "train.oversample", "0", config.train.oversample == 0
    yield "policy.dtype", "float32", config.policy.dtype == "float32"
    yield "learner.dtype", "float32", learner.dtype == "float32"
    yield "learner.device", "cpu", learner.device == "cpu"
    yield "learner.num_learners", "1", learner.num_learners == 1
    yield "rollout.num_gpus_per_worker", "0", config.rollout.num_gpus_per_worker == 0
    yield "render.backend", "diffusers", config.render.backend == "diffusers"
    yield "render.num_gpus_per_replica", "0", config.render.num_gpus_per_replica == 0
    yield "judge.kind", "pixels", config.judge.kind == "pixels"
    replayed = "replay (or all providers nano or local, and no tools.summariser)"
    yield "tools.mode", replayed, still or tools.mode == "replay"
