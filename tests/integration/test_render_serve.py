"""Real pipelines behind Ray Serve: nano, Qwen-Image-Edit-Plus, Qwen-Image, through one actor."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from actors.render import deploy_render
from actors.render_client import RenderClient
from actors.served_app import delete_app
from cluster.nano.judge import nano_tables
from core.errors import ConfigError, RenderError
from core.sections.scoring import RenderConfig
from envs.nano.flags import Flag, draw, encode_png
from rewards.flag_reader import FlagReader
from tests.builders import make_render_request, png_bytes
from tests.builders_diffusion import save_edit_plus_pipeline, save_text_pipeline
from tests.fakes.images import MemoryImageStore

pytestmark = [pytest.mark.integration, pytest.mark.ray]

APP = "render-test"
SHIPPED = "models/nano/renderer"
FLAG = Flag(
    layout="diagonal",
    field="yellow",
    second="purple",
    symbol="star",
    symbol_colour="black",
    banner=None,
)


@pytest.fixture(scope="module", autouse=True)
def serve_app(ray_cluster: str) -> Iterator[None]:
    yield
    serve.shutdown()


def deploy(path: Path | str, store: MemoryImageStore, folder: Path, **changes: Any) -> RenderClient:
    values: dict[str, Any] = {"path": str(path), "steps": 2, "num_cpus_per_replica": 0.1}
    config = RenderConfig(**(values | changes))
    return deploy_render(config, app_name=APP, store=store, cache_path=folder / "renders.sqlite")


async def test_the_shipped_model_renders_and_survives_a_killed_replica(tmp_path: Path) -> None:
    store = MemoryImageStore()
    client = deploy(SHIPPED, store, tmp_path)
    references = (store.put(png_bytes()), store.put(encode_png(draw(FLAG))))
    request = make_render_request(
        prompt="The flag of the second reference image, with the banner 47.",
        references=references,
        steps=2,
        model=client.name,
    )
    rendered = await client.render(request)
    reading = FlagReader(nano_tables()).read(store.get(rendered.image))
    assert (reading.layout, reading.field, reading.second) == ("diagonal", "yellow", "purple")
    assert (reading.symbol, reading.symbol_colour, reading.banner) == ("star", "black", "47")

    again = await client.render(request)
    assert again.cached
    assert again.image == rendered.image

    with pytest.raises(RenderError, match="ZeroDivisionError"):  # raised inside the pipeline
        await client.render(replace(request, steps=0))

    replica = _find_replica()  # beforehand: looking it up takes longer than a render
    running = [
        asyncio.create_task(client.render(replace(request, seed=seed))) for seed in range(1, 41)
    ]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)  # most are still to come
    await asyncio.sleep(0.02)  # the next one is being drawn
    ray.kill(replica)
    assert len(await asyncio.gather(*running)) == 40
    assert client.counters.painted == 41


async def test_a_real_edit_plus_pipeline_with_and_without_references(tmp_path: Path) -> None:
    store = MemoryImageStore()
    client = deploy(
        save_edit_plus_pipeline(tmp_path / "edit"),
        store,
        tmp_path,
        pipeline="qwen-image-edit",
        width=64,
        height=64,
        true_cfg_scale=4.0,
    )
    references = (store.put(png_bytes((255, 0, 0))), store.put(png_bytes((0, 0, 255))))
    with_references = make_render_request(
        prompt="A blue star.", references=references, steps=2, model=client.name
    )
    without = make_render_request(prompt="A blue star.", steps=2, model=client.name)
    edited, drawn = await asyncio.gather(client.render(with_references), client.render(without))
    assert (edited.image.width, edited.image.height) == (64, 64)
    assert (drawn.image.width, drawn.image.height) == (64, 64)
    assert edited.image != drawn.image


async def test_a_real_text_pipeline_takes_no_references(tmp_path: Path) -> None:
    store = MemoryImageStore()
    client = deploy(
        save_text_pipeline(tmp_path / "text"),
        store,
        tmp_path,
        pipeline="qwen-image",
        width=64,
        height=64,
        min_replicas=0,
    )
    drawn = await client.render(make_render_request(steps=2, model=client.name))
    assert drawn.image.width == 64
    with pytest.raises(RenderError, match="takes 0 at most"):
        await client.render(make_render_request(references=(store.put(png_bytes()),)))

    delete_app(APP)
    assert APP not in serve.status().applications


def test_a_missing_pipeline_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_index\.json"):
        deploy(tmp_path, MemoryImageStore(), tmp_path)


def _find_replica() -> Any:
    actors = ray.util.list_named_actors(all_namespaces=True)
    found = next(actor for actor in actors if "#RenderActor#" in actor["name"])
    return ray.get_actor(found["name"], namespace=found["namespace"])
