"""Everything that a run needs beside its rollout workers and its learner.

Enters: a Config, and a connected Ray. Leaves: `Services` - image store, search actor, judge actor,
image model (a render deployment, or a client of an API) - ready for work. Taken down in reverse
order, also when one of them fails to start; errors of start-up (a missing file, a missing key) pass
through as they are.

Files of a run, under runs/<name>/: images/, corpus.sqlite, store/, renders.sqlite.
"""

import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import ray

from actors.image_models import is_api
from actors.judge import start_judge
from actors.render import deploy_render
from actors.search import SearchClient, specs_of, start_search_actors, stop_search_actors
from actors.served_app import served_app
from actors.served_model import deploy_model, served_app_name
from cluster.openers import (
    RENDERS,
    Keys,
    anchored,
    open_image_api,
    open_judge,
    open_toolbox,
    prepare_corpus,
    prepare_store,
    read_keys,
)
from core.config import Config, ray_address
from core.protocols import ImageModel, Judge, Reward, ToolSpec
from core.stacks import answer_for_stacks
from envs.images import FileImageStore
from rewards.reward import DualReward
from rewards.shaping import Shaping

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    images_folder: Path
    """Absolute; every node of the cluster must see it under this path."""
    images: FileImageStore
    toolbox: SearchClient
    tool_specs: tuple[ToolSpec, ...]
    """What the policy is told of the toolbox."""
    reward: Reward
    image_model: ImageModel
    judge: Judge

    @property
    def paid(self) -> Mapping[str, Callable[[], Awaitable[float]]]:
        """What costs dollars, and how to ask it for those that it has spent."""
        return {
            "tools": self._spent_on_tools,
            "render": self._spent_on_renders,
            "judge": self.judge.spent_usd,
        }

    async def _spent_on_tools(self) -> float:
        return sum((await self.toolbox.counters()).dollars.values())

    async def _spent_on_renders(self) -> float:
        return self.image_model.spent_usd


@contextmanager
def start_services(config: Config) -> Iterator[Services]:
    """All of them up inside; all of them gone afterwards."""
    run_dir = config.run_dir.resolve()
    images = FileImageStore(run_dir / "images")
    keys = read_keys(config)
    with ExitStack() as stack:
        toolbox, tool_specs = start_search(config, run_dir, keys, stack)
        judge = _start_judge(config, run_dir, keys, stack)
        image_model = start_image_model(config, run_dir, keys, images, stack)
        yield Services(
            images_folder=run_dir / "images",
            images=images,
            toolbox=toolbox,
            tool_specs=tool_specs,
            reward=DualReward(
                judge=judge,
                text_weight=config.reward.text_weight,
                na_rule=config.reward.na_rule,
                shaping=shaping(config),
            ),
            image_model=image_model,
            judge=judge,
        )


def shaping(config: Config) -> Shaping:
    return Shaping(
        gate=config.reward.gate_weight,
        format=config.reward.format_weight,
        budget=config.reward.budget_weight,
        max_turns=config.rollout.max_turns,
    )


def start_search(
    config: Config, run_dir: Path, keys: Keys, stack: ExitStack
) -> tuple[SearchClient, tuple[ToolSpec, ...]]:
    """The search actors, and what the policy is told of them; `stack` takes them down."""
    config = anchored(config)
    prepare_store(config, run_dir)
    prepare_corpus(config, run_dir)
    start_served_summariser(config, stack)
    handles = start_search_actors(
        functools.partial(
            _open_answering,
            functools.partial(open_toolbox, config, run_dir, keys, launch=uuid.uuid4().hex[:8]),
            run_dir,
            "search",
        ),
        number=config.cluster.search_actors,
        num_cpus=config.cluster.search_num_cpus,
    )
    stack.callback(stop_search_actors, handles)
    return SearchClient(handles), specs_of(handles[0])


def _start_judge(config: Config, run_dir: Path, keys: Keys, stack: ExitStack) -> Judge:
    config = anchored(config)
    start_served_judge(config, stack)
    handle, client = start_judge(
        functools.partial(
            _open_answering,
            functools.partial(open_judge, config, run_dir, keys),
            run_dir,
            "judge",
        ),
        num_cpus=config.cluster.judge_num_cpus,
    )
    stack.callback(ray.kill, handle)
    return client


def _open_answering(make: Callable[[], T], run_dir: Path, name: str) -> T:
    """What an actor holds, and a process that says where it stands when a run stalls."""
    answer_for_stacks(run_dir, name)
    return make()


def start_served_judge(config: Config, stack: ExitStack) -> None:
    """The model that a served judge asks; nothing for every other judge."""
    if config.judge.kind == "served":
        app_name = served_app_name("judge", run_name=config.run.name)
        _own_app(app_name, config, stack)
        deploy_model(config.judge.served, app_name=app_name)


def start_served_summariser(config: Config, stack: ExitStack) -> None:
    """The model that the tools ask about pages, where the run serves it; else nothing."""
    if (served := config.tools.served_summariser) is not None:
        app_name = served_app_name("summariser", run_name=config.run.name)
        _own_app(app_name, config, stack)
        deploy_model(served, app_name=app_name)


def start_image_model(
    config: Config, run_dir: Path, keys: Keys, images: FileImageStore, stack: ExitStack
) -> ImageModel:
    """A client of replicas on Ray, or of a provider's API."""
    if is_api(config.render):
        return open_image_api(config, run_dir, keys, images)
    app_name = f"render-{config.run.name}"
    _own_app(app_name, config, stack)
    cache_path = run_dir / RENDERS
    return deploy_render(config.render, app_name=app_name, store=images, cache_path=cache_path)


def _own_app(app_name: str, config: Config, stack: ExitStack) -> None:
    """It ends with `stack`, or with this process."""
    joined = ray_address(config) is not None
    stack.enter_context(served_app(app_name, shared_cluster=joined))
