"""What the search actor and the judge actor hold, made from a Config where the actors run.

Their processes import this module, so it stays light: no torch, no diffusers, no Ray.

Files, under runs/<name>/: images/, corpus.sqlite (the nano world's pages), tools.sqlite (cache).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actors.image_models import api_key_variable
from cluster.judges import open_model_judge
from cluster.nano_judge import nano_judge
from cluster.providers import CORPUS, open_providers
from core.config import Config, has_secret, secret
from core.protocols import Judge
from envs.cache import ToolCache
from envs.corpus import build_corpus
from envs.images import FileImageStore
from envs.nano.world import World
from envs.toolbox import LocalToolbox
from envs.tools import BrowseTool, ImageSearchTool, SearchTool


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Secrets that travel to the actors which need them, and nowhere else."""

    providers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By name of the provider."""
    judge: str = field(default="", repr=False)
    render: str = field(default="", repr=False)


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
    """Write the nano world's pages and images for this run, unless they are there already."""
    path = run_dir / CORPUS
    if "nano" in config.tools.providers and not path.is_file():
        world, store = World(), FileImageStore(run_dir / "images")
        build_corpus(path, pages=world.pages(), images=world.images(), store=store)


def open_toolbox(config: Config, run_dir: Path, keys: Keys) -> LocalToolbox:
    """The tools of the recipe over their files; called where the search actor runs."""
    providers = open_providers(config, run_dir, keys.providers)
    cache_path = Path(config.tools.cache_path or run_dir / "tools.sqlite")
    return LocalToolbox(
        [
            SearchTool(providers.search, top_k=config.tools.top_k),
            ImageSearchTool(providers.image_search, top_k=config.tools.max_images_per_search),
            BrowseTool(providers.pages),
        ],
        ToolCache(cache_path),
        timeout_s=config.tools.timeout_s,
    )


def open_judge(config: Config, run_dir: Path, keys: Keys, *, cached: bool = True) -> Judge:
    """The judge of the recipe; called where the judge actor runs.

    `cached=False`: every verdict is asked for anew (the canary set).
    """
    if config.judge.kind == "pixels":
        return nano_judge(store=FileImageStore(run_dir / "images"))
    return open_model_judge(config, run_dir, api_key=keys.judge, cached=cached)
