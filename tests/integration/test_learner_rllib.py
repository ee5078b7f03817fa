"""The learner inside RLlib's LearnerGroup: one, and two that share the work."""

import asyncio
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import ray
import torch
from ray.exceptions import ObjectLostError, RayTaskError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from core.config import build_config
from core.errors import FidelityError
from core.records import Group, LearnerReport, WeightUpdate
from envs.chat import ChatFormat
from envs.images import FileImageStore
from learners.receive import WeightReceiver
from learners.rllib_learner import GrpoRllibLearner, PolicyModule
from tests.builders import (
    make_member,
    make_rollout_id,
    make_seen_image,
    make_task,
    make_trajectory,
)
from tests.hf_policy import HfPolicy
from tests.oracle_groups import make_oracle_groups
from tests.tiny_model import build_tiny_policy
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.ray]

NO_SPACE = gymnasium.spaces.Discrete(1)


class LearnerConfig(AlgorithmConfig):
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=PolicyModule)


def learner_group(folder: Path, images: Path, *, num_learners: int) -> LearnerGroup:
    config = LearnerConfig()
    config.gensearcher = build_config({"policy": {"path": str(folder)}})
    config.images_folder = str(images)
    config.framework_str = "torch"
    config.environment(observation_space=NO_SPACE, action_space=NO_SPACE)
    config.learners(
        learner_class=GrpoRllibLearner, num_learners=num_learners, num_cpus_per_learner=0.5
    )
    spaces = {DEFAULT_MODULE_ID: (NO_SPACE, NO_SPACE)}
    return LearnerGroup(config=config, module_spec=config.get_multi_rl_module_spec(spaces=spaces))


def ask(group: LearnerGroup, method: str, *arguments: Any) -> Any:
    """What the first learner answers; the others have nothing to say, or the same."""
    answers = group.foreach_learner(lambda learner: getattr(learner, method)(*arguments))
    return next((value for answer in answers if (value := answer.get()) is not None), None)


def update(group: LearnerGroup, groups: "list[ray.ObjectRef[Group]]") -> list[LearnerReport]:
    data = TrainingData(batch=groups)  # type: ignore[arg-type]
    answers = group.foreach_learner(lambda learner: learner.update(training_data=data))
    reports = []
    for answer in answers:
        if isinstance(value := answer.get(), RayTaskError):
            raise value
        reports.append(value)
    return reports


def receive(update: WeightUpdate, refs: list[Any]) -> dict[str, torch.Tensor]:
    return dict(WeightReceiver().receive(update, ray.get(list(refs))))


@ray.remote(num_cpus=0)
class Owner:
    """Takes what it has put along when it dies."""

    def put(self, group: Group) -> "list[ray.ObjectRef[Group]]":
        return [ray.put(group)]


def lost_reference(group: Group) -> "ray.ObjectRef[Group]":
    owner = Owner.remote()  # type: ignore[attr-defined]
    (ref,) = ray.get(owner.put.remote(group))
    ray.kill(owner)
    asyncio.run(until(lambda: is_lost(ref)))
    return ref  # type: ignore[no-any-return]


def is_lost(ref: "ray.ObjectRef[Group]") -> bool:
    try:
        ray.get(ref)
    except ObjectLostError:
        return True
    return False


@pytest.mark.parametrize("num_learners", [1, 2])
def test_a_learner_group_updates_publishes_saves_and_loads(
    ray_cluster: str, tmp_path: Path, num_learners: int
) -> None:
    folder, store = build_tiny_policy(tmp_path / "policy"), FileImageStore(tmp_path / "images")
    groups = make_oracle_groups(
        HfPolicy(folder), ChatFormat.load(folder), store, scores=[[0.0, 1.0]]
    )
    group = learner_group(folder, tmp_path / "images", num_learners=num_learners)
    try:
        lost = [lost_reference(groups[0])]
        assert not ask(group, "begin", lost)
        assert update(group, lost) == [None] * num_learners
        report, *others = update(group, [ray.put(one) for one in groups])
        assert all(other.metrics == report.metrics for other in others)
        assert report.version == 1
        assert report.metrics["learner/logprob_diff/after_image_max"] < 1e-4
        ask(group, "begin_save", str(tmp_path / "saved"))
        ask(group, "finish_save")
        trained = receive(*ask(group, "publish"))
        ask(group, "load", str(tmp_path / "saved"))
        latest, payload = ask(group, "publish")
        assert latest.version == 1
        assert latest.base_version is None, "whoever listens after a load may know nothing"
        loaded = receive(latest, payload)
        assert all(torch.equal(loaded[name], trained[name]) for name in trained)
        with pytest.raises(FidelityError, match=r"images of \[\] tokens, but they have \[4\]"):
            update(group, [ray.put(group_without_pixels())])
    finally:
        group.shutdown()


def group_without_pixels() -> Group:
    """Its trajectories tell of an image whose placeholders are not in their tokens."""
    members = []
    for index, score in enumerate([0.0, 1.0]):
        trajectory = make_trajectory(
            images=[make_seen_image()], rollout_id=make_rollout_id(index=index)
        )
        members.append(make_member(score, index=index, trajectory=trajectory))
    return Group(task=make_task(), members=tuple(members))
