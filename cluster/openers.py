"""What the search actor and the judge actor hold, made from a Config where the actors run; and
the image model that somebody else runs.

Their processes import this module, so it stays light: no torch, no diffusers, no Ray.

Files, under runs/<name>/: images/, corpus.sqlite (the nano world's pages), store/ (what
the tools fetched, its images in images/ too; see envs/store), renders.sqlite.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actors.api_painter import open_api_model, own_host
from actors.image_models import api_key_variable
from actors.render_client import RenderClient
from cluster.judges import open_model_judge
from cluster.nano.judge import nano_judge
from cluster.providers import CORPUS, open_providers
from core.config import Config, has_secret, secret
from core.protocols import Judge
from envs.contamination import Benchmark, ContaminationGuard
from envs.corpus import build_corpus, is_corpus
from envs.http import AiohttpClient, operators_client
from envs.images import FileImageStore
from envs.nano.world import World
from envs.store.library import Library, Usage
from envs.store.read_through import Ages
from envs.store.store import Store
from envs.store.values import Kind
from envs.toolbox import LocalToolbox
from envs.tools import BrowseTool, ImageSearchTool, SearchTool

STORE = "store"
RENDERS = "renders.sqlite"
HOUR_S = 3600.0
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Secrets that travel to the actors which need them, and nowhere else."""

    providers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By name of the provider."""
    judge: str = field(default="", repr=False)
    render: str = field(default="", repr=False)
    agent: str = field(default="", repr=False)
    """Of an endpoint that plays the policy's part (core/sections/agent.py)."""


def read_keys(config: Config) -> Keys:
    """The keys that the recipe needs. Raises ConfigError for one that is not set."""
    tools, judge = config.tools, config.judge.key_variable
    render = api_key_variable(config.render)
    providers = {name: secret(variable) for name, variable in tools.needed_keys.items()}
    if "jina" in tools.pages and has_secret(tools.jina.api_key_env):
        providers["jina"] = secret(tools.jina.api_key_env)
    return Keys(
        providers=providers,
        judge=secret(judge) if judge else "",
        render=secret(render) if render else "",
    )


def prepare_corpus(config: Config, run_dir: Path) -> None:
    """Write the nano world's pages and images for this run, unless they are there already; those
    that another version of gensearcher wrote are written again."""
    path = run_dir / CORPUS
    live = config.tools.mode != "replay"
    if live and "nano" in config.tools.providers and not is_corpus(path):
        world, store = World(), FileImageStore(run_dir / "images")
        build_corpus(path, pages=world.pages(), images=world.images(), store=store)


def prepare_store(config: Config, run_dir: Path) -> None:
    """Refuse a replay of nothing before anything starts. Raises ConfigError."""
    if config.tools.mode == "replay":
        Store.existing(store_folder(config, run_dir)).close()


def anchored(config: Config) -> Config:
    """With the paths of the tools and the judge absolute: an actor may run in another folder than
    the driver."""
    tools, judge = config.tools, config.judge
    guard = tools.guard.model_copy(update={"benchmark": _absolute(tools.guard.benchmark)})
    paths = {"store": _absolute(tools.store), "corpus": _absolute(tools.corpus)}
    update = {
        "tools": tools.model_copy(update={**paths, "guard": guard}),
        "judge": judge.model_copy(update={"prompt_file": _absolute(judge.prompt_file)}),
    }
    return config.model_copy(update=update)


def _absolute(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path else None


def store_folder(config: Config, run_dir: Path) -> Path:
    return Path(config.tools.store).resolve() if config.tools.store else run_dir / STORE


def open_toolbox(config: Config, run_dir: Path, keys: Keys, *, launch: str = "0") -> LocalToolbox:
    """The tools of the recipe over their files; called where a search actor runs.

    `launch` names this start of the run: pins of its earlier ones are dropped.
    """
    library = open_library(config, run_dir, launch=launch)
    guard = _open_guard(config, library)
    close_providers = None
    if config.tools.mode == "replay":
        search = library.search(None)
        image_search = library.image_search(None)
        pages = library.pages(None)
        summaries = library.summaries(None)
    else:
        providers = open_providers(
            config,
            run_dir,
            keys.providers,
            images=library.images,
            count=library.tallies.add,
            pay=library.tallies.pay,
        )
        search = library.search(providers.search)
        image_search = library.image_search(providers.image_search)
        pages = library.pages(providers.pages)
        summaries = library.summaries(providers.summariser)
        close_providers = providers.close
    return LocalToolbox(
        [
            SearchTool(guard.search(search), top_k=config.tools.top_k),
            ImageSearchTool(
                guard.image_search(image_search), top_k=config.tools.max_images_per_search
            ),
            BrowseTool(
                guard.pages(pages), summariser=summaries if config.tools.summariser else None
            ),
        ],
        library,
        deadline_s=config.tools.timeout_s,
        close_providers=close_providers,
    )


def _open_guard(config: Config, library: Library) -> ContaminationGuard:
    """Raises ConfigError and DataError for a benchmark that cannot be read."""
    guard = config.tools.guard
    return ContaminationGuard(
        Benchmark.load(Path(guard.benchmark)) if guard.benchmark else Benchmark(),
        images=library.images,
        blocked_hosts=guard.blocked_hosts,
        count=lambda reason: library.tallies.add(f"blocked/{reason}"),
    )


def open_library(config: Config, run_dir: Path, *, launch: str) -> Library:
    """The store of the recipe, made if it is missing. Its images are the run's, if it is too."""
    tools, images = config.tools, run_dir / "images"
    folder = store_folder(config, run_dir)
    store = Store(folder, images=None if tools.store else images)
    hours = tools.ttl_hours
    usage = Usage(
        session=f"{config.run.name}/{launch}",
        mode=tools.mode,
        on_miss=tools.on_miss,
        ages=Ages(
            found={kind: HOUR_S * getattr(hours, kind) for kind in Kind},
            nothing=HOUR_S * hours.nothing,
        ),
        max_bytes=int(tools.max_store_gib * GIB),
        timeout_s=tools.timeout_s,
    )
    is_shared = store.images.folder == images.resolve()
    return Library(store, usage, run_images=None if is_shared else FileImageStore(images))


def open_judge(config: Config, run_dir: Path, keys: Keys, *, cached: bool = True) -> Judge:
    """The judge of the recipe; called where the judge actor runs.

    `cached=False`: every verdict is asked for anew (the canary set).
    """
    if config.judge.kind == "pixels":
        return nano_judge(store=FileImageStore(run_dir / "images"))
    return open_model_judge(config, run_dir, api_key=keys.judge, cached=cached)


def open_image_api(
    config: Config, run_dir: Path, keys: Keys, images: FileImageStore
) -> RenderClient:
    """The image model behind a provider's API, which needs no replica of ours."""
    api = config.render.api
    return open_api_model(
        config.render,
        api_key=keys.render,
        http=operators_client(),
        guarded=AiohttpClient(
            allow=own_host(api.base_url), max_connections_per_host=api.max_in_flight
        ),
        store=images,
        cache_path=run_dir / RENDERS,
    )
