"""A tiny policy, the images that it was shown, groups that it played, and learners for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.config import Config, build_config
from core.records import Group
from core.sections.learner import LearnerConfig
from envs.chat import ChatFormat
from learners.engine import deepspeed_config
from learners.grpo_learner import GrpoLearner
from learners.receive import WeightReceiver
from tests.device import DEVICE
from tests.fakes.images import MemoryImageStore
from tests.hf_policy import HfPolicy
from tests.oracle_groups import make_oracle_groups

SCORES = [[0.0, 1.0], [0.2, 0.5, 0.9]]


@dataclass(frozen=True, kw_only=True)
class World:
    folder: Path
    chat: ChatFormat
    store: MemoryImageStore

    def config(self, **learner: Any) -> Config:
        settings = {"device": DEVICE, "micro_batch_tokens": 256, "warmup_steps": 1, "lr": 1e-3}
        settings |= learner
        return build_config({"policy": {"path": str(self.folder)}, "learner": settings})

    @contextmanager
    def learner(self, **settings: Any) -> Iterator[GrpoLearner]:
        settings = {"broadcast": "dense", **settings}  # each publish is read on its own
        learner = GrpoLearner(self.config(**settings), chat=self.chat, images=self.store)
        try:
            yield learner
        finally:
            learner.close()

    def groups(self, **changes: Any) -> list[Group]:
        oracle = HfPolicy(self.folder)
        return make_oracle_groups(oracle, self.chat, self.store, **({"scores": SCORES} | changes))


def weights_of(learner: GrpoLearner) -> dict[str, torch.Tensor]:
    update, payload = learner.publish()
    return dict(WeightReceiver().receive(update, payload))


def sharding_everything(config: LearnerConfig) -> dict[str, Any]:
    """DeepSpeed leaves parameters of less than 100,000 numbers whole: all of the tiny model's."""
    settings = deepspeed_config(config)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return settings
