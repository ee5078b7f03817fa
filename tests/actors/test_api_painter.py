"""API image models against fake providers on loopback: shapes, faults, prices, limits."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.api_painter import open_api_model, own_host
from actors.image_models import api_key_variable, image_model_name, references_of_an_answer
from actors.render_client import RenderClient
from core.errors import ConfigError, RenderError
from core.sections.scoring import RenderConfig
from envs.http import AiohttpClient
from tests.builders import make_render_request, png_bytes
from tests.fakes.image_servers import KEY, ImageServer, painted
from tests.fakes.images import MemoryImageStore

BACKENDS = ("openai", "gemini", "seedream")
PROMPT = "A red kite over Zorvia."


class Setup:
    """A provider, and our model of it."""

    def __init__(self, server: ImageServer, model: RenderClient, store: MemoryImageStore) -> None:
        self.server, self.model, self.store = server, model, store

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.server.events]


@asynccontextmanager
async def provider(
    tmp_path: Path,
    backend: str,
    *,
    faults: Iterable[str] = (),
    reply_with: str = "b64_json",
    guard: Callable[[str], AiohttpClient] = lambda _: AiohttpClient(may_connect=lambda _: True),
    render: dict[str, Any] | None = None,
    **api: Any,
) -> AsyncIterator[Setup]:
    async with ImageServer(faults=faults, reply_with=reply_with) as server:
        http = AiohttpClient(may_connect=lambda address: True)
        guarded = guard(server.base_url(backend))
        store = MemoryImageStore()
        values = {"model": "m-1", "base_url": server.base_url(backend), "per_second": 1000.0}
        config = RenderConfig.model_validate(
            {"backend": backend, "api": values | api, "timeout_s": 5.0} | (render or {})
        )
        model = open_api_model(
            config,
            api_key=KEY,
            http=http,
            guarded=guarded,
            store=store,
            cache_path=tmp_path / "renders.sqlite",
        )
        try:
            yield Setup(server, model, store)
        finally:
            await http.close()
            await guarded.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_picture_with_and_without_references(tmp_path: Path, backend: str) -> None:
    pictures = [png_bytes((1, 0, 0)), png_bytes((2, 0, 0))]
    async with provider(tmp_path, backend) as setup:
        plain = await setup.model.render(make_render_request(prompt=PROMPT))
        references = tuple(setup.store.put(data) for data in pictures)
        edited = await setup.model.render(make_render_request(prompt=PROMPT, references=references))

    assert setup.store.get(plain.image) == painted(PROMPT, ())
    assert setup.store.get(edited.image) == painted(PROMPT, pictures)
    assert plain.image.media_type == "image/png"


async def test_openai_edits_only_what_it_is_given(tmp_path: Path) -> None:
    extra = {"quality": "high"}
    async with provider(tmp_path, "openai", size="1024x1024", extra_body=extra) as setup:
        await setup.model.render(make_render_request())
        reference = setup.store.put(png_bytes())
        await setup.model.render(make_render_request(references=(reference,)))

    assert setup.paths == ["/v1/images/generations", "/v1/images/edits"]
    body = setup.server.events[1][1]
    assert (body["size"], body["quality"], len(body["images"])) == ("1024x1024", "high", 1)


async def test_gemini_labels_each_reference_and_names_its_size(tmp_path: Path) -> None:
    async with provider(tmp_path, "gemini", size="2K", aspect_ratio="16:9") as setup:
        references = tuple(setup.store.put(png_bytes((n, 0, 0))) for n in range(2))
        await setup.model.render(make_render_request(prompt=PROMPT, references=references))

    path, body = setup.server.events[0]
    assert path == "/v1beta/models/m-1:generateContent"
    parts = body["contents"][0]["parts"]
    texts = [part.get("text", "an image") for part in parts]
    labels = ["Reference image 1:", "an image", "Reference image 2:", "an image"]
    assert texts == [*labels, PROMPT]
    assert body["generationConfig"]["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "2K"}


@pytest.mark.parametrize(
    ("backend", "reply_with"),
    [("openai", "url"), ("openai", "data_url"), ("seedream", "url"), ("gemini", "markdown")],
)
async def test_every_way_of_handing_an_image_over(
    tmp_path: Path, backend: str, reply_with: str
) -> None:
    async with provider(tmp_path, backend, reply_with=reply_with) as setup:
        rendered = await setup.model.render(make_render_request(prompt=PROMPT))

    assert setup.store.get(rendered.image) == painted(PROMPT, ())


async def test_a_reply_cannot_send_us_to_a_private_address(tmp_path: Path) -> None:
    async with provider(
        tmp_path,
        "seedream",
        reply_with="url",
        guard=lambda _: AiohttpClient(),
        max_tries=1,
        usd_per_image=0.04,
    ) as setup:
        with pytest.raises(RenderError, match="refused"):
            await setup.model.render(make_render_request())

    assert setup.paths == ["/api/v3/images/generations"]
    assert setup.model.spent_usd == 0.04, "the picture was drawn"


async def test_a_private_endpoint_may_keep_its_pictures_on_its_own_host(tmp_path: Path) -> None:
    def guard(base_url: str) -> AiohttpClient:
        return AiohttpClient(allow=own_host(base_url))

    async with provider(tmp_path, "openai", reply_with="url", guard=guard) as setup:
        rendered = await setup.model.render(make_render_request(prompt=PROMPT))

    assert setup.store.get(rendered.image) == painted(PROMPT, ())
    assert own_host("https://images.test/v1") == ("images.test:443",)
    assert own_host("") == ()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fault", ["500", "not_json", "no_image", "bad_base64", "no_picture"])
async def test_what_may_go_well_next_time_is_asked_again(
    tmp_path: Path, backend: str, fault: str
) -> None:
    async with provider(tmp_path, backend, faults=[fault]) as setup:
        rendered = await setup.model.render(make_render_request(prompt=PROMPT))

    assert setup.store.get(rendered.image) == painted(PROMPT, ())
    assert len(setup.server.events) == 2
    assert setup.model.counters.retries == 0, "the endpoint below owns every retry"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_storm_of_429_ends_as_one_failure_after_the_last_try(
    tmp_path: Path, backend: str
) -> None:
    async with provider(tmp_path, backend, faults=["429"] * 10, max_tries=2) as setup:
        with pytest.raises(RenderError, match="HTTP 429") as error:
            await setup.model.render(make_render_request())

    assert len(setup.server.events) == 2, "no layer above multiplies the tries"
    assert (error.value.error_type, error.value.as_failure().stage) == ("HTTP 429", "render")


@pytest.mark.parametrize(
    ("backend", "fault", "reason"),
    [
        ("openai", "blocked", "moderation_blocked"),
        ("gemini", "blocked", "PROHIBITED_CONTENT"),
        ("gemini", "unsafe", "IMAGE_SAFETY"),
        ("seedream", "blocked", "OutputImageSensitiveContentDetected"),
    ],
)
async def test_a_blocked_picture_is_named_and_not_asked_for_again(
    tmp_path: Path, backend: str, fault: str, reason: str
) -> None:
    async with provider(tmp_path, backend, faults=[fault]) as setup:
        with pytest.raises(RenderError, match=f"blocked the picture .{reason}") as error:
            await setup.model.render(make_render_request())

    assert (error.value.error_type, error.value.retryable) == (reason, False)
    assert len(setup.server.events) == 1


async def test_a_wrong_media_type_is_sniffed_over(tmp_path: Path) -> None:
    async with provider(tmp_path, "gemini", faults=["wrong_type"]) as setup:
        rendered = await setup.model.render(make_render_request())

    assert rendered.image.media_type == "image/png"


@pytest.mark.parametrize(("backend", "reply_with"), [("openai", "b64_json"), ("seedream", "url")])
async def test_a_huge_image_is_refused_while_it_arrives(
    tmp_path: Path, backend: str, reply_with: str
) -> None:
    async with provider(
        tmp_path, backend, faults=["huge"], reply_with=reply_with, max_image_mib=1
    ) as setup:
        with pytest.raises(RenderError, match="longer than"):
            await setup.model.render(make_render_request())


async def test_a_silent_provider_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    async with provider(tmp_path, "openai", faults=["slow"], deadline_s=0.2) as setup:
        with pytest.raises(RenderError, match=r"no answer within 0\.2 s"):
            await setup.model.render(make_render_request())


async def test_a_picture_is_paid_for_once(tmp_path: Path) -> None:
    async with provider(tmp_path, "openai", faults=["500"], usd_per_image=0.04) as setup:
        first = await setup.model.render(make_render_request())
        second = await setup.model.render(make_render_request())

    assert (first.cost_usd, second.cost_usd, second.cached) == (0.04, 0.0, True)
    assert setup.model.spent_usd == 0.04
    assert len(setup.server.events) == 2  # the fault, and the picture


async def test_the_limit_of_references_is_the_providers_or_the_configs(tmp_path: Path) -> None:
    async with provider(tmp_path, "openai", max_references=1) as setup:
        references = tuple(setup.store.put(png_bytes((n, 0, 0))) for n in range(2))
        request = make_render_request(references=references)
        with pytest.raises(RenderError, match="takes 1 at most"):
            await setup.model.render(request)

    assert setup.server.events == []


async def test_more_references_than_the_model_takes_can_be_renumbered(tmp_path: Path) -> None:
    prompt = "The tower of the second reference image with the first reference image's flag."
    render = {"extra_references": "renumber"}
    async with provider(tmp_path, "seedream", max_references=1, render=render) as setup:
        references = tuple(setup.store.put(png_bytes((n, 0, 0))) for n in range(2))
        request = make_render_request(prompt=prompt, references=references)
        rendered = await setup.model.render(request)

    sent = setup.server.events[0][1]
    assert sent["prompt"] == "The tower with the first reference image's flag."
    assert len(sent["image"]) == 1
    assert rendered.dropped_references == 1
    assert rendered.request.references == references[:1]


def test_a_name_says_what_is_promised() -> None:
    config = RenderConfig.model_validate({"backend": "openai", "api": {"model": "gpt-image-1"}})
    name = image_model_name(config)

    assert name.startswith("openai:gpt-image-1~"), "no @: equal requests may draw other pixels"
    larger = config.model_copy(update={"api": config.api.model_copy(update={"size": "1536x1024"})})
    assert image_model_name(larger) != name
    with pytest.raises(ConfigError, match=r"render\.api\.model is empty"):
        image_model_name(RenderConfig(backend="openai"))


def test_the_key_is_the_providers_usual_one_unless_named() -> None:
    assert api_key_variable(RenderConfig()) == ""
    assert api_key_variable(RenderConfig(backend="seedream")) == "ARK_API_KEY"
    named = {"backend": "openai", "api": {"api_key_env": ""}}
    assert api_key_variable(RenderConfig.model_validate(named)) == ""


def test_the_policy_may_choose_more_only_where_more_are_mended() -> None:
    assert references_of_an_answer(RenderConfig()) == 3
    assert references_of_an_answer(RenderConfig(extra_references="renumber")) == 5
    assert references_of_an_answer(RenderConfig(backend="gemini")) == 5
