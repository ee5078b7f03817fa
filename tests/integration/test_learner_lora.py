"""Adapters in place of weights: trained, sent, taken up again, refused where they do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import ConfigError
from envs.chat import ChatFormat
from learners.grpo_learner import GrpoLearner
from learners.lora import BaseWeights
from learners.receive import WeightReceiver
from tests.fakes.images import MemoryImageStore
from tests.hf_policy import HfPolicy
from tests.learner_world import SCORES, World
from tests.oracle_groups import make_oracle_groups
from tests.tiny_model import build_tiny_policy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = build_tiny_policy(tmp_path_factory.mktemp("policy"))
    return World(folder=folder, chat=ChatFormat.load(folder), store=MemoryImageStore())


LORA = {"lora_rank": 4, "lora_alpha": 8.0, "lr": 5e-3}


def merged_weights_of(learner: GrpoLearner, world: World) -> dict[str, torch.Tensor]:
    """What a rollout worker loads."""
    update, payload = learner.publish()
    assert update.lora_scale == 2.0
    factors = WeightReceiver().receive(update, payload)
    base = BaseWeights(str(world.folder), dtype=torch.float32)
    return dict(base.add(factors, scale=update.lora_scale))


def test_adapters_alone_are_trained_and_sent(world: World) -> None:
    before = HfPolicy(world.folder).model.state_dict()
    with world.learner(**LORA) as learner:
        first = merged_weights_of(learner, world)
        assert all(torch.equal(first[name], before[name]) for name in before)
        for seed in range(3):
            # On the policy's own probabilities: the learner's, seen through the merged weights.
            oracle = HfPolicy(world.folder)
            oracle.model.load_state_dict(merged_weights_of(learner, world))
            groups = make_oracle_groups(
                oracle, world.chat, world.store, scores=SCORES, seed=seed, version=seed
            )
            report = learner.update(groups)
            assert report.metrics["learner/logprob_diff/text_max"] < 1e-4
            assert report.metrics["learner/logprob_diff/after_image_max"] < 1e-4
        sent = sum(part.nbytes for part in learner.publish()[1])
        trained = merged_weights_of(learner, world)
    assert sent < 0.1 * sum(tensor.nbytes for tensor in before.values())
    changed = {name for name in before if not torch.equal(trained[name], before[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}


def test_adapters_are_resumed_and_their_policy_is_a_plain_folder(
    world: World, tmp_path: Path
) -> None:
    steps = [world.groups(seed=seed) for seed in range(3)]
    with world.learner(**LORA) as learner:
        learner.update(steps[0])
        learner.save(str(tmp_path / "saved"))
        saved = merged_weights_of(learner, world)
        learner.update(steps[1])
        expected = merged_weights_of(learner, world)
    plain = HfPolicy(tmp_path / "saved" / "policy").model.state_dict()
    assert all(torch.equal(plain[name], saved[name]) for name in plain)
    with world.learner(**LORA) as learner:
        learner.load(str(tmp_path / "saved"))
        learner.update(steps[1])
        resumed = merged_weights_of(learner, world)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_other_adapters_or_parts_than_were_trained_are_refused(
    world: World, tmp_path: Path
) -> None:
    """Fewer targets, or a rank of 1, would fit without an error; so would a tower that stands."""
    changes: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (LORA, LORA | {"lora_alpha": 16.0}, r"lora_alpha is 16, .* set learner.lora_alpha=8$"),
        (LORA | {"lora_rank": 1}, LORA, r"has \(1, \d+\) as .*, this learner \(4, .* lora_rank"),
        (LORA, LORA | {"lora_targets": ["q_proj", "k_proj"]}, "down_proj.* or lora_targets"),
        (LORA, {}, "has nothing as .* lora_rank"),
        ({}, LORA, "this learner nothing.* lora_rank"),
        ({"freeze_vision": False}, {}, r"visual.* this learner nothing.* learner.freeze_vision"),
        ({}, {"freeze_vision": False}, r"has nothing as .*visual.* learner.freeze_vision"),
    ]
    for number, (saved, now, sentence) in enumerate(changes):
        folder = str(tmp_path / str(number))
        with world.learner(**saved) as learner:
            learner.save(folder)
        with world.learner(**now) as learner, pytest.raises(ConfigError, match=sentence):
            learner.load(folder)
