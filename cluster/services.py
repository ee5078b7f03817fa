"""Everything that a run needs beside its rollout workers and its learner.

Enters: a Config, and a connected Ray. Leaves: `Services` - image store, search actor, judge actor,
render deployment - ready for work. Taken down in reverse order, also when one of them fails to
start; errors of start-up (a missing file, a missing key) pass through as they are.

Files of a run, under runs/<name>/: images/, corpus.sqlite, tools.sqlite, renders.sqlite.
"""

import asyncio
import functools
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ray

from actors.judge import start_judge
from actors.render import deploy_render, stop_render
from actors.search import SearchClient, start_search_actor
from cluster.nano_judge import nano_judge
from core.config import Config, has_secret, secret
from core.protocols import ImageModel, Judge, Reward, Toolbox
from envs.cache import ToolCache
from envs.corpus import Corpus, build_corpus
from envs.http import AiohttpClient
from envs.images import FileImageStore
from envs.nano.world import World
from envs.provider import SearchProvider
from envs.serper import SerperProvider
from envs.toolbox import LocalToolbox
from envs.tools import BrowseTool, ImageSearchTool, SearchTool
from rewards.openai_judge import OpenAIJudge
from rewards.reward import DualReward

logger = logging.getLogger(__name__)

CORPUS = "corpus.sqlite"
OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    images_folder: Path
    """Absolute; every node of the cluster must see it under this path."""
    images: FileImageStore
    toolbox: Toolbox
    reward: Reward
    image_model: ImageModel


@contextmanager
def start_services(config: Config) -> Iterator[Services]:
    """All of them up inside; all of them gone afterwards."""
    run_dir = config.run_dir.resolve()
    images = FileImageStore(run_dir / "images")
    keys = read_keys(config)
    with ExitStack() as stack:
        toolbox = _start_search(config, run_dir, keys, stack)
        judge = _start_judge(config, run_dir, keys, stack)
        stack.callback(stop_render)
        image_model = deploy_render(
            config.render, store=images, cache_path=run_dir / "renders.sqlite"
        )
        yield Services(
            images_folder=run_dir / "images",
            images=images,
            toolbox=toolbox,
            reward=DualReward(
                judge=judge,
                text_weight=config.reward.text_weight,
                na_rule=config.reward.na_rule,
            ),
            image_model=image_model,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Secrets that travel to the actors which need them, and nowhere else."""

    search: str = field(default="", repr=False)
    pages: str = field(default="", repr=False)
    judge: str = field(default="", repr=False)


def read_keys(config: Config) -> Keys:
    """The keys that the recipe needs. Raises ConfigError for one that is not set."""
    live = config.tools.search == "serper"
    judged = config.judge.kind == "openai"
    return Keys(
        search=secret("SERPER_API_KEY") if live else "",
        pages=secret("JINA_API_KEY") if live and has_secret("JINA_API_KEY") else "",
        judge=secret(config.judge.api_key_env) if judged else "",
    )


def open_toolbox(config: Config, run_dir: Path, keys: Keys) -> LocalToolbox:
    """The tools of the recipe over their files; called where the search actor runs."""
    provider = _open_provider(config, run_dir, keys)
    cache_path = Path(config.tools.cache_path or run_dir / "tools.sqlite")
    return LocalToolbox(
        [
            SearchTool(provider, top_k=config.tools.top_k),
            ImageSearchTool(provider, top_k=config.tools.max_images_per_search),
            BrowseTool(provider),
        ],
        ToolCache(cache_path),
        timeout_s=config.tools.timeout_s,
    )


def open_judge(config: Config, run_dir: Path, keys: Keys) -> Judge:
    """The judge of the recipe; called where the judge actor runs."""
    images = FileImageStore(run_dir / "images")
    match config.judge.kind:
        case "pixels":
            return nano_judge(store=images)
        case "openai":
            return OpenAIJudge(
                # The operator names this endpoint; it may well be on a private network.
                http=AiohttpClient(may_connect=lambda address: True),
                images=images,
                base_url=config.judge.base_url or OPENAI_URL,
                model=config.judge.model,
                api_key=keys.judge,
                timeout_s=config.judge.timeout_s,
                max_tries=config.judge.max_tries,
                in_flight=asyncio.Semaphore(config.judge.max_in_flight),
            )


def _open_provider(config: Config, run_dir: Path, keys: Keys) -> SearchProvider:
    match config.tools.search:
        case "nano":
            return Corpus(run_dir / CORPUS)
        case "serper":
            return SerperProvider(
                http=AiohttpClient(),
                images=FileImageStore(run_dir / "images"),
                serper_key=keys.search,
                jina_key=keys.pages,
                timeout_s=config.tools.timeout_s,
            )


def _start_search(config: Config, run_dir: Path, keys: Keys, stack: ExitStack) -> Toolbox:
    if config.tools.search == "nano" and not (run_dir / CORPUS).is_file():
        world = World()
        store = FileImageStore(run_dir / "images")
        build_corpus(run_dir / CORPUS, pages=world.pages(), images=world.images(), store=store)
    handle = start_search_actor(
        functools.partial(open_toolbox, config, run_dir, keys),
        num_cpus=config.cluster.search_num_cpus,
    )
    stack.callback(ray.kill, handle)
    ray.get(handle.counters.remote())  # it is up, or its error is raised here
    return SearchClient(handle)


def _start_judge(config: Config, run_dir: Path, keys: Keys, stack: ExitStack) -> Judge:
    handle, client = start_judge(
        functools.partial(open_judge, config, run_dir, keys),
        num_cpus=config.cluster.judge_num_cpus,
        max_in_flight=config.judge.max_in_flight,
    )
    stack.callback(ray.kill, handle)
    return client
