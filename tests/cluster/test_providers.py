"""The providers of a recipe, opened as the search actor opens them, over the fake web."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.check.doctor import check_corpus
from cluster.providers import Providers, open_providers
from core.config import load_config
from core.errors import ConfigError
from core.records import ToolCall
from envs.corpus import build_corpus
from envs.fake_web.app import KEY, FakeWeb
from envs.fake_web.faults import Fault
from envs.fake_web.server import nano_web, overrides_for, serving_on_a_thread
from envs.images import FileImageStore
from envs.nano.world import World
from envs.store.library import Library
from envs.store.store import Store
from envs.toolbox import LocalToolbox
from envs.tools import BrowseTool, SearchTool
from tests.builders import make_rollout_id

WEB = ("serper", "brave", "tavily", "serpapi", "searxng")
KEYS = dict.fromkeys((*WEB, "jina"), KEY)


@pytest.fixture(scope="module")
def world() -> World:
    return World(num_train=6, num_heldout=2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[tuple[FakeWeb, str]]:
    fake = nano_web(tmp_path_factory.mktemp("fake_web"), world=world)
    with serving_on_a_thread(fake) as address:
        yield fake, address


def opened(
    address: str, folder: Path, *overrides: str, count: Callable[[str], None] = lambda name: None
) -> Providers:
    config = load_config("nano", overrides=[*overrides_for(address), *overrides])
    images = FileImageStore(folder / "images")
    return open_providers(config, folder, KEYS, images=images, count=count)


@pytest.mark.parametrize("name", WEB)
async def test_a_recipe_that_names_a_service_asks_it(
    name: str, served: tuple[FakeWeb, str], world: World, tmp_path: Path
) -> None:
    _, address = served
    country = world.countries[0]
    providers = opened(
        address,
        tmp_path,
        *(f"tools.search={name}", f"tools.image_search={name}", "tools.pages=[jina, fetch]"),
    )

    hits = await providers.search.search(country.name, k=1)
    images = await providers.image_search.image_search(f"flag {country.name}", k=2)
    page = await providers.pages.page(hits.value[0].url)

    assert (hits.provider, images.provider, page.provider) == (name, name, "jina")
    assert hits.value[0].title == country.name
    assert len(images.value) == 2
    assert all(FileImageStore(tmp_path / "images").get(image.ref) for image in images.value)
    assert page.value is not None
    assert page.value.text.startswith(f"founded {country.year}")
    assert providers.search.version == name
    await providers.close()


async def test_the_next_in_the_list_is_asked_and_knows_the_addresses_of_its_own(
    served: tuple[FakeWeb, str], world: World, tmp_path: Path
) -> None:
    fake, address = served
    build_corpus(
        tmp_path / "made" / "corpus.sqlite",
        pages=world.pages(),
        images=world.images(),
        store=FileImageStore(tmp_path / "made" / "images"),
    )
    counted: list[str] = []
    providers = opened(
        address,
        tmp_path,
        *("tools.search=[serper, local]", "tools.image_search=[brave, local]"),
        *("tools.pages=[fetch, local]", f"tools.corpus={tmp_path}/made", "tools.timeout_s=5"),
        *("tools.serper.max_tries=1", "tools.brave.max_tries=1"),
        count=counted.append,
    )
    fake.faults.update(serper=Fault(kind="status"), brave=Fault(kind="error_body"))
    try:
        hits = await providers.search.search(world.countries[0].name, k=1)
        images = await providers.image_search.image_search(world.countries[0].name, k=2)
    finally:
        fake.faults.clear()
    page = await providers.pages.page(hits.value[0].url)

    assert (hits.provider, images.provider, page.provider) == ("local", "local", "local")
    assert all(FileImageStore(tmp_path / "images").get(image.ref) for image in images.value)
    assert counted == ["provider_failures/serper", "provider_failures/brave", "refused/url"]
    await providers.close()


async def test_what_results_point_at_is_refused_unless_the_operator_allows_it(
    served: tuple[FakeWeb, str], world: World, tmp_path: Path
) -> None:
    """The service itself may be private: the operator named it. Its results may not."""
    fake, address = served
    providers = opened(
        address,
        tmp_path,
        *("tools.search=searxng", "tools.image_search=serper", "tools.pages=fetch"),
        "tools.guard.allow=[]",
    )
    before = fake.calls["img"] + fake.calls["page"]

    hits = await providers.search.search(world.countries[0].name, k=1)
    images = await providers.image_search.image_search("flag", k=2)

    assert images.value == ()
    assert (await providers.pages.page(hits.value[0].url)).value is None
    assert fake.calls["img"] + fake.calls["page"] == before
    await providers.close()


async def test_a_list_whose_first_hangs_leaves_time_for_the_next(
    served: tuple[FakeWeb, str], world: World, tmp_path: Path
) -> None:
    fake, address = served
    providers = opened(
        address,
        tmp_path,
        *("tools.search=[serper, brave]", "tools.image_search=serper", "tools.pages=jina"),
        "tools.timeout_s=5",
    )
    fake.faults["serper"] = Fault(kind="slow_headers")
    try:
        found = await providers.search.search(world.countries[0].name, k=1)
    finally:
        fake.faults.clear()

    assert found.provider == "brave"
    await providers.close()


async def test_tools_that_are_closed_leave_no_connection_open(
    served: tuple[FakeWeb, str], world: World, tmp_path: Path
) -> None:
    _, address = served
    providers = opened(
        address, tmp_path, "tools.search=searxng", "tools.image_search=serper", "tools.pages=fetch"
    )
    toolbox = LocalToolbox(
        [SearchTool(providers.search, top_k=1), BrowseTool(providers.pages)],
        Library(Store(tmp_path / "store")),
        close_providers=providers.close,
    )
    url = f"{address}/page/{world.pages()[0].url}"
    for name, arguments in (
        ("search", {"queries": [world.countries[0].name]}),
        ("browse", {"url": url, "query": "founded"}),
    ):
        call = ToolCall(name=name, arguments=json.dumps(arguments))
        assert (await toolbox.call(call, rollout_id=make_rollout_id())).upstream_calls == 1

    def connections() -> int:
        port = int(address.rpartition(":")[2])
        every = psutil.Process().net_connections()
        return sum(bool(one.raddr) and one.raddr.port == port for one in every)

    assert connections() == 2
    await toolbox.close()
    assert connections() == 0


def test_a_corpus_that_is_not_there_is_said_before_anything_starts(tmp_path: Path) -> None:
    local = [f"tools.{tool}=local" for tool in ("search", "image_search", "pages")]
    config = load_config("nano", overrides=[*local, f"tools.corpus={tmp_path}/none.sqlite"])

    with pytest.raises(ConfigError, match=r"there is no corpus at .*none\.sqlite"):
        open_providers(config, tmp_path, {}, images=FileImageStore(tmp_path))
    check = check_corpus(config)
    assert not check.ok
    assert check.mend == "build it: gensearcher corpus build"
