"""The learner sees what the rollout saw, pixels too, before and after new weights have travelled.

Real parts from end to end: the nano policy in vLLM at T = 0.7 and top-p = 0.95, its tools over the
encyclopedia, whose images the policy looks at, DeepSpeed, and weights on the wire in both ways.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from actors.runtime_env import worker_env
from cluster.openers import Keys, open_toolbox, prepare_corpus
from core.config import Config, load_config
from core.records import Group, Trajectory
from envs.chat import ChatFormat
from envs.episode import EpisodeLimits, run_episode
from envs.images import FileImageStore
from envs.prompts import system_prompt
from envs.tasks import TaskSource, open_train_tasks
from envs.toolbox import LocalToolbox
from learners.grpo_learner import GrpoLearner
from learners.mismatch import Mismatch, measure
from learners.samples import build_sample
from tests.builders import make_member, make_rollout_id

if TYPE_CHECKING:
    from actors.vllm_engine import VllmEngine

pytestmark = pytest.mark.integration

TOLERANCE = 1e-4
BLANK_MEAN = 0.02
NUM_UPDATES = 5
GROUPS, MEMBERS = 4, 8


@dataclass(frozen=True, kw_only=True)
class World:
    config: Config
    chat: ChatFormat
    images: FileImageStore
    toolbox: LocalToolbox
    tasks: TaskSource
    engine: "VllmEngine"

    async def play(self, first_ordinal: int) -> list[Group]:
        """Episodes by the engine's present weights. Scores differ; seeing an image pays."""
        ordinals = range(first_ordinal, first_ordinal + GROUPS)
        played = await asyncio.gather(
            *(self._episode(ordinal, index) for ordinal in ordinals for index in range(MEMBERS))
        )
        groups = []
        for number in range(GROUPS):
            own = played[number * MEMBERS : (number + 1) * MEMBERS]
            members = [
                make_member(0.1 * index + bool(one.shown), trajectory=one)
                for index, one in enumerate(own)
            ]
            groups.append(Group(task=own[0].task, members=tuple(members)))
        return groups

    async def _episode(self, ordinal: int, index: int) -> Trajectory:
        rollout = self.config.rollout
        return await run_episode(
            self.tasks.task(ordinal),
            rollout_id=make_rollout_id(ordinal, index),
            policy=self.engine,
            toolbox=self.toolbox,
            images=self.images,
            chat=self.chat,
            system_prompt=system_prompt("nano", self.toolbox.specs),
            limits=EpisodeLimits(
                max_turns=rollout.max_turns,
                max_tokens_per_turn=rollout.max_tokens_per_turn,
                max_context=rollout.max_context,
                max_images_per_search=self.config.tools.max_images_per_search,
            ),
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            seed=0,
        )

    def compare(self, learner: GrpoLearner, groups: Sequence[Group]) -> Mismatch:
        members = [member for group in groups for member in group.members]
        return measure(
            learner._policy,
            [build_sample(one.trajectory, advantage=0.0) for one in members if one.trajectory],
            chat=self.chat,
            images=self.images,
            max_tokens=2048,
            device=learner._engine.device,
        )

    @contextmanager
    def learner(self, broadcast: Literal["dense", "delta"]) -> Iterator[GrpoLearner]:
        settings = self.config.learner.model_copy(update={"broadcast": broadcast})
        config = self.config.model_copy(update={"learner": settings})
        learner = GrpoLearner(config, chat=self.chat, images=self.images)
        try:
            yield learner
        finally:
            learner.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    config = load_config(
        "nano",
        overrides=[
            *("rollout.temperature=0.7", "rollout.top_p=0.95"),
            *("rollout.kv_cache_gib=0.1", "rollout.max_sequences=32"),
            *("learner.warmup_steps=0", "learner.lr=3e-4", "learner.snapshot_every=9"),
        ],
    )
    before = dict(os.environ)
    os.environ.update(worker_env(config))
    from actors.vllm_engine import VllmEngine

    folder = tmp_path_factory.mktemp("run")
    images = FileImageStore(folder / "images")
    chat = ChatFormat.load(config.policy.path)
    prepare_corpus(config, folder)
    engine = VllmEngine(config, images=images, stop_ids=[chat.stop_id])
    yield World(
        config=config,
        chat=chat,
        images=images,
        toolbox=open_toolbox(config, folder, Keys()),
        tasks=open_train_tasks(config, images=images),
        engine=engine,
    )
    asyncio.run(engine.aclose())
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("broadcast", ["dense", "delta"])
async def test_learner_and_rollout_agree_on_every_token_through_five_updates(
    world: World, broadcast: Literal["dense", "delta"]
) -> None:
    with world.learner(broadcast) as learner:
        update, payload = learner.publish()
        await world.engine.apply_weights([update], [payload])
        for number in range(NUM_UPDATES):
            groups = await world.play(number * GROUPS)
            if number == 0:
                check(world.compare(learner, groups))
            report = await asyncio.to_thread(learner.update, groups)
            assert report.metrics["learner/off_policy_fraction"] == 0
            for name in ("text_max", "after_image_max"):
                assert report.metrics.get(f"learner/logprob_diff/{name}", 0.0) < TOLERANCE
            update, payload = learner.publish()
            assert update.base_version == (None if broadcast == "dense" else number)
            await world.engine.apply_weights([update], [payload])
        old = groups
        groups = await world.play(NUM_UPDATES * GROUPS)
        check(world.compare(learner, groups))
        stale = world.compare(learner, old)
        assert stale.text.max > 100 * TOLERANCE, "the last update must have changed something"


def check(found: Mismatch) -> None:
    assert found.text.num_tokens > 100
    assert found.after_image.num_tokens > 50, "too few episodes saw an image"
    assert found.text.max < TOLERANCE
    assert found.after_image.max < TOLERANCE
    assert found.blanked.mean >= BLANK_MEAN
