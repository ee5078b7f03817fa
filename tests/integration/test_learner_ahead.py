"""Groups whose gradients the learner adds before the others of its batch are there."""

import pytest
import torch

from core.errors import LearnerError
from envs.chat import ChatFormat
from tests.fakes.images import MemoryImageStore
from tests.learner_world import World, weights_of
from tests.tiny_model import build_tiny_policy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = build_tiny_policy(tmp_path_factory.mktemp("policy"))
    return World(folder=folder, chat=ChatFormat.load(folder), store=MemoryImageStore())


@pytest.mark.parametrize(("dtype", "zero_stage"), [("float32", 1), ("float32", 3), ("bfloat16", 2)])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean_token_sum"])
def test_groups_that_come_early_give_the_same_step(
    world: World, dtype: str, zero_stage: int, aggregation: str
) -> None:
    groups = world.groups()
    settings = {"zero_stage": zero_stage, "aggregation": aggregation, "max_grad_norm": 0.5}
    trained, reports = [], []
    for early in ([], groups[1:], groups):
        with world.learner(dtype=dtype, **settings) as learner:
            if early:
                learner.begin(early)
            reports.append(learner.update(groups).metrics)
            trained.append(weights_of(learner))
    at_once = reports[0]
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    for early_report, weights in zip(reports[1:], trained[1:], strict=True):
        for name in ("loss", "grad_norm", "entropy", "samples"):
            expected = pytest.approx(at_once[f"learner/{name}"], rel=tolerance)
            assert early_report[f"learner/{name}"] == expected
        for name, tensor in trained[0].items():
            # Adam's first step has the size of lr, and the sign of what may be all rounding.
            same = torch.isclose(weights[name].float(), tensor.float(), rtol=0, atol=2e-5)
            assert same.float().mean() > 0.97, name


def test_a_group_that_came_early_and_is_not_of_the_update_is_an_error(world: World) -> None:
    groups = world.groups()
    with world.learner() as learner:
        learner.begin(groups[1:])
        with pytest.raises(LearnerError, match="were begun, but are not of this update"):
            learner.update(groups[:1])


def test_groups_that_came_early_and_teach_nothing_are_forgotten_with_their_update(
    world: World,
) -> None:
    (flat,) = world.groups(scores=[[0.5, 0.5]])
    (_, other) = world.groups()
    assert flat.task.ordinal != other.task.ordinal
    with world.learner() as learner:
        learner.begin([flat])
        assert learner.update([flat]).num_samples == 0
        assert learner.update([other]).version == 1
