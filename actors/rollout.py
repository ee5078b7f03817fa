"""The rollout worker: an RLlib EnvRunner that plays episodes with vLLM, many at once.

In: a task and a rollout id. Out: a Trajectory, or a Failure when something of ours broke. Weights
come as `WeightUpdate`s whose payloads are awaited from the object store and mapped, not copied.
A thin shell: the episode is `envs.episode.run_episode`, the engine `actors.vllm_engine`.

A worker whose engine has died ends its own process: Ray starts it again (`max_restarts`), so that
whoever calls it has one kind of loss to deal with, a lost actor.
"""

import asyncio
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from actors.engines import engine_type
from actors.image_models import references_of_an_answer
from actors.stats import EngineStats
from core.config import Config
from core.errors import InfraError, StageError, boundary
from core.protocols import Toolbox
from core.records import Failure, RolloutId, Task, Trajectory, WeightUpdate
from core.stacks import answer_for_stacks
from envs.chat import ChatFormat
from envs.episode import EpisodeLimits, run_episode
from envs.node_images import open_images
from envs.prompts import system_prompt

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

Mode = Literal["train", "eval"]


class RolloutWorker(EnvRunner, Checkpointable):
    """An async Ray actor. The algorithm's config carries four attributes of ours:

    `gensearcher: Config`, `toolbox: Toolbox` (a search client), `tool_specs: Sequence[ToolSpec]`
    (what the policy is told of it) and `images_folder: str`.
    """

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        """Start the engine (seconds) with the policy of the recipe as version 0.

        Raises ConfigError for a policy folder that cannot be used, InfraError for an engine that
        does not start.
        """
        super().__init__(config=config, **kwargs)
        ours: Config = config.gensearcher
        self._ours = ours
        self._toolbox: Toolbox = config.toolbox
        self._images = open_images(Path(config.images_folder), ours.cluster)
        answer_for_stacks(Path(config.images_folder).parent, "rollout")
        self._chat = ChatFormat.load(ours.policy.path)
        max_references = references_of_an_answer(ours.render)
        self._system_prompt = system_prompt(
            ours.policy.system_prompt, config.tool_specs, max_references=max_references
        )
        self._limits = EpisodeLimits(
            max_turns=ours.rollout.max_turns,
            max_tokens_per_turn=ours.rollout.max_tokens_per_turn,
            max_context=ours.rollout.max_context,
            max_images_per_search=ours.tools.max_images_per_search,
            max_references=max_references,
            max_tool_s=ours.tools.episode_deadline_s,
        )
        self._updating = asyncio.Lock()
        """One update at a time: after a broken connection it is sent again while the first may
        still be loading, from the buffer that the second is received into."""
        self._engine = engine_type(ours)(ours, images=self._images, stop_ids=[self._chat.stop_id])

    async def run(
        self, task: Task, rollout_id: RolloutId, mode: Mode = "train"
    ) -> Trajectory | Failure:
        """Play one episode. Errors that are no StageError (fidelity, data) are raised."""
        sampling = self._ours.rollout if mode == "train" else self._ours.eval
        try:
            with boundary(InfraError, f"rollout {rollout_id}"):
                return await run_episode(
                    task,
                    rollout_id=rollout_id,
                    policy=self._engine,
                    toolbox=self._toolbox,
                    images=self._images,
                    chat=self._chat,
                    system_prompt=self._system_prompt,
                    limits=self._limits,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=self._ours.run.seed,
                )
        except StageError as error:
            logger.warning("rollout=%s failed: %s", rollout_id, error)
            self._leave_if_engine_is_dead()
            return error.as_failure()

    async def apply_weights(
        self,
        updates: Sequence[WeightUpdate],
        payload_refs: "Sequence[Sequence[ray.ObjectRef[np.ndarray]]]",
    ) -> None:
        """One ref per chunk of each update, in lists so that Ray does not fetch them beforehand.

        Raises InfraError: the update does not fit, or the engine is now unusable.
        """
        async with self._updating:
            payloads = [await asyncio.gather(*refs) for refs in payload_refs]
            await self._engine.apply_weights(updates, payloads)

    def policy_version(self) -> int:
        return self._engine.policy_version

    async def stats(self) -> EngineStats:
        return await self._engine.stats()

    def node_id(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    async def stop(self) -> None:
        """Shut the engine down before the actor is killed; it holds shared memory."""
        await self._engine.aclose()

    # What RLlib asks of an EnvRunner.

    async def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """RLlib's own returns a bare coroutine, and ends the process at any exception."""
        result = func(self, *args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    async def sample(self, **kwargs: Any) -> Trajectory | Failure:
        """RLlib's name for `run`."""
        return await self.run(**kwargs)

    def ping(self) -> str:
        """Raises InfraError when the engine is dead."""
        self._engine.check()
        return "pong"

    def assert_healthy(self) -> None:
        self._engine.check()

    def get_spaces(self) -> dict[str, tuple[gymnasium.Space[Any], gymnasium.Space[Any]]]:
        """RLlib wants spaces; token sequences have none."""
        none: gymnasium.Space[Any] = gymnasium.spaces.Discrete(1)
        return dict.fromkeys(("__env__", "__env_single__", DEFAULT_MODULE_ID), (none, none))

    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    def get_state(self, *unused: Any, **also_unused: Any) -> dict[str, Any]:
        return {WEIGHTS_SEQ_NO: self._engine.policy_version}

    def set_state(self, state: Any) -> None:
        """Nothing: weights come through `apply_weights` alone, and there is no other state."""

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[Any]:
        return []

    def _leave_if_engine_is_dead(self) -> None:
        try:
            self._engine.check()
        except InfraError:
            logger.exception("the engine is dead; this worker ends, for Ray to start it again")
            os._exit(1)  # sys.exit() would only end the coroutine
