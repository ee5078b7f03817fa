"""RLlib as the outer shell: `GRPO(Algorithm)`, whose training step is one step of the controller.

RLlib places and restarts the rollout workers (EnvRunners) and the learner (LearnerGroup), and
brings `train()` with its result dicts. What flows between them is ours: the controller talks to
the workers' actors directly, and weights travel through the object store. `save_to_path` and
`restore_from_path` write and read our own checkpoints (cluster/checkpoints.py), never pickle.

    algorithm = GRPOConfig.of(config, toolbox=..., images_folder=...).build_algo()
    algorithm.drive_with(controller)          # made by cluster/launch.py from the parts below
    algorithm.train()
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
from ray.exceptions import RayError, RayTaskError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from actors.rollout import RolloutWorker
from cluster.checkpoints import write_checkpoint
from cluster.controller import Controller
from cluster.parts import LearnerLostError
from cluster.plan.placement import learner_gpus
from cluster.sent_groups import SentGroups
from core.config import Config
from core.errors import GensearcherError, InfraError, LearnerError
from core.protocols import Toolbox, ToolSpec
from core.records import Group, LearnerReport, WeightUpdate
from learners.rllib_learner import GrpoRllibLearner, PolicyModule

T = TypeVar("T")

logger = logging.getLogger(__name__)

NO_SPACE: gymnasium.spaces.Space[Any] = gymnasium.spaces.Discrete(1)
"""RLlib wants spaces; nothing of ours has any."""


class GRPOConfig(AlgorithmConfig):
    """RLlib's settings, derived from our one config tree; four of ours travel with it."""

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or GRPO)
        self.gensearcher = Config()
        self.toolbox: Toolbox | None = None
        """What the rollout workers call tools with."""
        self.tool_specs: tuple[ToolSpec, ...] = ()
        """What the policy is told of it."""
        self.images_folder = ""
        """Absolute path of the image store."""

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """RLlib wants a module; ours is empty, the weights live in the learner."""
        return RLModuleSpec(
            module_class=PolicyModule, observation_space=NO_SPACE, action_space=NO_SPACE
        )

    @classmethod
    def of(
        cls,
        config: Config,
        *,
        toolbox: Toolbox,
        tool_specs: tuple[ToolSpec, ...],
        images_folder: Path,
    ) -> "GRPOConfig":
        made = cls()
        made.gensearcher = config
        made.toolbox = toolbox
        made.tool_specs = tool_specs
        made.images_folder = str(images_folder)
        made.framework_str = "torch"
        made.environment(observation_space=NO_SPACE, action_space=NO_SPACE)
        made.resources(num_cpus_for_main_process=0)
        made.env_runners(
            env_runner_cls=RolloutWorker,
            num_env_runners=config.rollout.num_workers,
            create_local_env_runner=False,
            num_cpus_per_env_runner=config.rollout.num_cpus_per_worker,  # type: ignore[arg-type]
            num_gpus_per_env_runner=config.rollout.num_gpus_per_worker,
        )
        made.fault_tolerance(restart_failed_env_runners=True)
        made.learners(
            learner_class=GrpoRllibLearner,
            num_learners=config.learner.num_learners,
            num_cpus_per_learner=config.learner.num_cpus,
            num_gpus_per_learner=learner_gpus(config),
        )
        # Connector states that we do not have would be sent around after every step.
        made._dont_auto_sync_env_runner_states = True
        return made


class GRPO(Algorithm):
    """The controller does the work; RLlib sees one training step after another."""

    config: GRPOConfig
    learner_group: LearnerGroup | None
    _controller: Controller | None = None

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()

    def setup(self, config: AlgorithmConfig) -> None:
        """Start the rollout workers and the learner. Raises InfraError when no worker starts."""
        try:
            super().setup(config)
        except IndexError as error:  # RLlib's way to say that no worker is left
            message = "no rollout worker started; the error of each is in the log above"
            raise InfraError(message, retryable=False) from error

    @property
    def rollout_workers(self) -> list[Any]:
        """The actors' handles."""
        assert self.env_runner_group is not None
        return list(self.env_runner_group._worker_manager.actors().values())

    def replace_learner(self) -> LearnerGroup:
        """A new learner with the initial policy, in the place of one that is lost."""
        assert self.learner_group is not None
        self.learner_group.shutdown()
        spaces = {DEFAULT_MODULE_ID: (NO_SPACE, NO_SPACE)}
        module_spec = self.config.get_multi_rl_module_spec(spaces=spaces)
        self.learner_group = self.config.build_learner_group(rl_module_spec=module_spec)
        return self.learner_group

    def drive_with(self, controller: Controller) -> None:
        self._controller = controller

    def training_step(self) -> None:
        (report,) = self._driver.advance(steps=1)
        for name, value in report.metrics.items():
            self.metrics.log_value(tuple(name.split("/")), value, window=1)

    def save_to_path(self, path: Any = None, **unused: Any) -> str:
        """A whole checkpoint at `path`, in our own format."""
        controller = self._driver

        def save_learner(folder: str) -> int:
            version = controller.save_learner(folder)
            controller.finish_save()
            return version

        write_checkpoint(
            Path(path),
            state=controller.frontier_state,
            config=self.config.gensearcher,
            save_learner=save_learner,
        )
        return str(path)

    def restore_from_path(self, path: Any, *unused: Any, **also_unused: Any) -> None:
        """Policy, learner and frontier of a checkpoint. Raises ConfigError for a torn one."""
        self._driver.restore(Path(path))

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Nothing: cluster/ray_pool.py brings workers back, with the current weights."""
        return []

    @property
    def _driver(self) -> Controller:
        if self._controller is None:
            raise GensearcherError("GRPO has no controller; start it with cluster.launch.launch")
        return self._controller


class RayLearner:
    """Implements cluster.parts.RemoteLearner over RLlib's LearnerGroup."""

    def __init__(self, group: LearnerGroup, *, replace: Callable[[], LearnerGroup]) -> None:
        self._group = group
        self._replace = replace
        self._groups = SentGroups()

    async def begin(self, groups: Sequence[Group]) -> None:
        await self._give(groups, lambda refs, learner: learner.begin(refs))

    async def step(self, groups: Sequence[Group]) -> LearnerReport:
        def update(refs: Any, learner: GrpoRllibLearner) -> LearnerReport | None:
            return learner.update(training_data=TrainingData(batch=refs))

        report = await self._give(groups, update)
        self._groups.forget()
        return report

    async def publish(self) -> tuple[WeightUpdate, Any]:
        published = await self._call(lambda learner: learner.publish())
        return next(one for one in published if one is not None)

    async def save(self, folder: str) -> int:
        return (await self._call(lambda learner: learner.begin_save(folder)))[0]

    async def saved(self) -> None:
        await self._call(lambda learner: learner.finish_save())

    async def load(self, folder: str) -> None:
        await self._call(lambda learner: learner.load(folder))

    async def _give(
        self, groups: Sequence[Group], method: Callable[[Any, GrpoRllibLearner], T | None]
    ) -> T:
        """The first learner's answer. Groups that the object store has lost, which the learners say
        before they do anything, are put there again, once: they are here too."""
        for _ in range(2):
            refs = self._groups.refs(groups)
            answers = await self._call(partial(method, refs))
            if answers[0]:
                return answers[0]
            self._groups.forget()
            logger.warning("groups of a step were lost on their way to the learner; once more")
        raise LearnerError("groups were lost twice on their way to the learner", retryable=False)

    async def _call(self, method: Callable[[GrpoRllibLearner], T]) -> list[T]:
        """The answers of all learners; at least one."""
        with learner_errors():
            results = list(await asyncio.to_thread(self._group.foreach_learner, method))
            if len(results) < len(self._group):  # RLlib leaves out one that it knows to be dead
                raise LearnerLostError("a learner is lost")
            values = [result.get() for result in results]
            errors = [value for value in values if isinstance(value, Exception)]
            # A learner that waits for one that died has an error too, which says less.
            deaths = [error for error in errors if not isinstance(error, RayTaskError)]
            for error in deaths or errors:
                raise error
        return values

    async def restart(self) -> None:
        with learner_errors():
            self._groups.forget()
            self._group = await asyncio.to_thread(self._replace)


@contextmanager
def learner_errors() -> Iterator[None]:
    """Our own errors come out of the learner as they went in; all others are LearnerErrors."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, GensearcherError):
            raise error.cause from error
        raise LearnerError(f"learner: {error.cause!r}", retryable=False) from error
    except RayError as error:
        raise LearnerLostError(f"the learner is lost: {error}") from error
