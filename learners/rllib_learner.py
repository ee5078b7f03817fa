"""RLlib's Learner around `GrpoLearner`: a thin shell that a LearnerGroup places and calls.

In: `TrainingData(batch=refs)`, one reference per `Group` of the batch, all of them for each of the
learners, who share the work among them (RLlib's own batch types are never touched). Out: what
GrpoLearner gives, reached through the LearnerGroup:

    group.foreach_learner(lambda learner: learner.update(training_data=data))    LearnerReport
    group.foreach_learner(lambda learner: learner.publish())                     WeightUpdate, refs

`publish` gives None of all learners but the first.

The AlgorithmConfig carries `gensearcher: Config` and `images_folder: str`. Errors are those of
GrpoLearner.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from core.config import Config
from core.errors import LearnerError
from core.records import Group, LearnerReport, WeightUpdate
from core.stacks import answer_for_stacks
from envs.chat import ChatFormat
from envs.node_images import open_images
from learners import peers
from learners.grpo_learner import GrpoLearner

logger = logging.getLogger(__name__)


class PolicyModule(TorchRLModule):
    """The module that RLlib asks for. Empty: the weights are DeepSpeed's, inside GrpoLearner,
    and leave through `publish`, so RLlib neither copies nor converts them."""

    def setup(self) -> None:
        pass


class GrpoRllibLearner(TorchLearner):
    """One learner process."""

    @classmethod
    def rl_module_required_apis(cls) -> list[type]:
        return []

    def build(self) -> None:
        super().build()
        config: Config = self.config.gensearcher
        answer_for_stacks(Path(self.config.images_folder).parent, "learner")
        self._grpo = GrpoLearner(
            config,
            chat=ChatFormat.load(config.policy.path),
            images=open_images(Path(self.config.images_folder), config.cluster),
            store=ray.put,
        )

    def update(self, *, training_data: TrainingData, **unused: Any) -> LearnerReport | None:
        """None: a group is not in the object store any more, and nothing has happened."""
        groups = fetch(training_data.batch)
        return None if groups is None else self._grpo.update(groups)

    def begin(self, groups: Sequence["ray.ObjectRef[Group]"]) -> bool:
        """False: as `update`'s None."""
        fetched = fetch(groups)
        if fetched is not None:
            self._grpo.begin(fetched)
        return fetched is not None

    def publish(self) -> tuple[WeightUpdate, tuple["ray.ObjectRef[np.ndarray]", ...]] | None:
        """The arrays of the payload lie in the object store of the learner's node, once; another
        node fetches each of them once, for all its workers."""
        return self._grpo.publish() if peers.rank() == 0 else None

    def begin_save(self, folder: str) -> int:
        return self._grpo.begin_save(folder)

    def finish_save(self) -> None:
        self._grpo.finish_save()

    def load(self, folder: str) -> None:
        self._grpo.load(folder)

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """None: DeepSpeed owns the optimizer."""

    def _make_modules_ddp_if_necessary(self) -> None:
        """Never: DeepSpeed owns the gradients."""

    def compute_loss_for_module(self, **unused: Any) -> Any:
        """RLlib demands the method; `update` never comes here."""
        raise LearnerError("GrpoRllibLearner.update computes the loss", retryable=False)


def fetch(refs: Sequence["ray.ObjectRef[Group]"]) -> list[Group] | None:
    """All learners have their groups or none has: one that began alone would wait for the others.
    No error, after which RLlib would not ask this learner again."""
    groups: list[Group] = []

    def is_there() -> bool:
        try:
            groups.extend(ray.get(list(refs)))
        except ObjectLostError as error:
            logger.warning("a group is lost: %s", error)
            return False
        return True

    return groups if all(peers.together(is_there)) else None
