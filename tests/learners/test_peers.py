"""Two learners on one batch, in two processes, against one learner in this process."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.config import Config, build_config
from core.errors import ConfigError, InfraError
from core.records import Group
from envs.chat import ChatFormat
from envs.images import FileImageStore
from learners.checkpoint import load_checkpoint, policy_folder
from learners.peers import share_out
from tests.builders import make_sample
from tests.hf_policy import HfPolicy
from tests.learner_process import Learners, Outcome, two_learners, update_and_save
from tests.oracle_groups import make_oracle_groups
from tests.tiny_model import build_tiny_policy


@dataclass(frozen=True, kw_only=True)
class World:
    folder: Path
    learners: Learners

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def config(self, **learner: Any) -> Config:
        settings = {"micro_batch_tokens": 256, "warmup_steps": 1, "lr": 1e-3} | learner
        return build_config({"policy": {"path": str(self.folder / "policy")}, "learner": settings})

    def groups(self, scores: list[list[float]]) -> list[Group]:
        policy = self.folder / "policy"
        return make_oracle_groups(
            HfPolicy(policy), ChatFormat.load(policy), FileImageStore(self.images), scores=scores
        )

    def one_and_two(self, config: Config, groups: list[Group]) -> tuple[Outcome, list[Outcome]]:
        one = update_and_save(config, groups, self.images, self.folder / "one")
        images = [self.images] * 2
        both = self.learners.update(config, groups, images=images, save_to=self.folder / "two")
        outcomes = [outcome for outcome in both if isinstance(outcome, Outcome)]
        assert len(outcomes) == 2, both
        return one, outcomes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("peers")
    build_tiny_policy(folder / "policy")
    with two_learners(folder) as learners:
        yield World(folder=folder, learners=learners)


def largest_difference(ours: Outcome, theirs: Outcome) -> float:
    assert ours.weights.keys() == theirs.weights.keys()
    return max((ours.weights[n] - w).abs().max().item() for n, w in theirs.weights.items())


def test_two_learners_do_what_one_does(world: World) -> None:
    groups = world.groups([[0.0, 1.0], [0.2, 0.5, 0.9]])
    one, (first, second) = world.one_and_two(world.config(), groups)
    assert largest_difference(first, one) < 1e-6
    assert largest_difference(first, second) == 0
    assert first.report.metrics == pytest.approx(one.report.metrics, rel=1e-5, abs=1e-9)
    assert second.report.metrics == first.report.metrics
    ours, theirs = (load_checkpoint(world.folder / name) for name in ("two", "one"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert (ours.step, ours.version) == (theirs.step, theirs.version) == (1, 1)
    assert (policy_folder(world.folder / "two") / "model.safetensors").is_file()


def test_a_learner_may_have_nothing_to_do_and_another_no_image(world: World) -> None:
    # Two steps of one sequence each: the second learner is idle in both. The tower is trained,
    # so that the one at work has gradients of which the other knows nothing.
    config = world.config(updates_per_step=2, freeze_vision=False)
    one, (first, second) = world.one_and_two(config, world.groups([[0.0, 1.0]]))
    assert one.report.metrics["learner/micro_batches"] == 2
    # AdamW makes steps of 1e-3 of gradients that are nothing but rounding, as a key's bias has.
    assert largest_difference(first, one) < 1e-5
    assert largest_difference(first, second) == 0


def test_the_error_of_one_learner_is_raised_by_both(world: World) -> None:
    outcomes = world.learners.update(
        world.config(),
        world.groups([[0.0, 1.0], [0.0, 1.0]]),
        images=[world.images, world.folder / "no images"],
        save_to=world.folder / "failed",
    )
    assert all(isinstance(outcome, InfraError) for outcome in outcomes), outcomes
    assert str(outcomes[0]) == str(outcomes[1])
    assert not (world.folder / "failed").exists()


def test_packs_are_shared_out_by_their_tokens() -> None:
    packs = [
        [make_sample(prompt_ids=(0,) * (length - 1), completion_ids=(0,))]
        for length in (2, 9, 3, 4)
    ]
    shares = share_out(packs, num_learners=2)
    lengths = [[len(pack[0].token_ids) for pack in share] for share in shares]
    assert lengths == [[9], [4, 3, 2]]
    assert share_out(packs[:1], num_learners=2) == [packs[:1], []]


def test_several_learners_have_unequal_numbers_of_passes() -> None:
    with pytest.raises(ConfigError, match=r"learner.zero_stage=3 needs learner.num_learners=1"):
        build_config({"learner": {"num_learners": 2, "zero_stage": 3}})
