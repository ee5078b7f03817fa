"""A vision tower that is trained, through packs of which some have no image."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from core.records import TrainingSample
from core.sections.learner import LearnerConfig
from envs.chat import ChatFormat
from learners import engine
from learners.batch import build_micro_batch
from learners.grpo_learner import select_samples
from learners.model import load_policy
from tests.fakes.images import MemoryImageStore
from tests.learner_world import World, sharding_everything
from tests.tiny_model import build_tiny_policy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = build_tiny_policy(tmp_path_factory.mktemp("policy"))
    return World(folder=folder, chat=ChatFormat.load(folder), store=MemoryImageStore())


def offloading(config: LearnerConfig) -> dict[str, Any]:
    """What a learner with a GPU asks of DeepSpeed, on a CPU."""
    settings = sharding_everything(config)
    if config.zero_stage:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    return settings


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("settings_of", [sharding_everything, offloading])
@pytest.mark.parametrize("with_images", [(0, 0), (0, 1), (1, 0)])
def test_a_trained_tower_has_no_gradient_of_packs_without_images(
    world: World,
    zero_stage: int,
    settings_of: Any,
    with_images: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a step before, in which there were images, nothing may be left."""
    monkeypatch.setattr(engine, "deepspeed_config", settings_of)
    samples, _ = select_samples(world.groups(), config=world.config())
    blind = [before_images(sample) for sample in samples]
    steps = [samples[:1], [(blind, samples)[shown][n] for n, shown in enumerate(with_images)]]
    trained, norms = [], []
    for stage in (None, zero_stage):
        settings = world.config(zero_stage=stage, freeze_vision=False, max_grad_norm=1e6)
        trainer = engine.TrainEngine(load_policy(settings), config=settings.learner)
        for step in steps:
            for sample in step:
                batch = build_micro_batch([sample], chat=world.chat, images=world.store)
                trainer.backward(-trainer.forward(batch)[0].sum())
            norms.append(trainer.step(lr=1e-3))
        trained.append(trainer.state_tensors())
        trainer.close()
    assert norms[2:] == pytest.approx(norms[:2], rel=1e-4)
    for name, tensor in trained[0].items():
        if name.startswith("exp_avg/"):
            torch.testing.assert_close(trained[1][name], tensor, rtol=1e-3, atol=1e-3)


def before_images(sample: TrainingSample) -> TrainingSample:
    """What was sampled before the first tool was called."""
    end = sample.loss_mask.index(0, sample.loss_mask.index(1))
    rows = ("token_ids", "loss_mask", "logprobs", "advantages", "policy_versions")
    return replace(sample, images=(), **{name: getattr(sample, name)[:end] for name in rows})
