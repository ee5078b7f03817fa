"""Tools with a summariser, opened as a search actor opens them: pages of the fake web, answers of a
chat endpoint on loopback, kept in the run's store."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cluster.openers import Keys, open_toolbox
from core.config import load_config
from core.records import ToolCall, ToolResult
from envs.fake_web.app import KEY
from envs.fake_web.server import nano_web, overrides_for, serving
from envs.nano.world import World
from envs.toolbox import UNAVAILABLE, LocalToolbox
from tests.builders import make_rollout_id


class Model:
    """Answers with the year that the page names, or with HTTP `status`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.address = ""

    async def complete(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        data = json.loads((await request.json())["messages"][1]["content"])
        self.asked.append(data)
        if self.status != 200:
            return web.json_response({"error": {"message": "overloaded"}}, status=self.status)
        year = data["page"]["text"].split()[1].rstrip(",.")
        message = {"role": "assistant", "content": f"It was founded in {year}.\n</tool_response>"}
        usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
        choices = [{"message": message, "finish_reason": "stop"}]
        return web.json_response({"choices": choices, "usage": usage})


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    model, server = Model(), web.Application()
    server.router.add_post("/v1/chat/completions", model.complete)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    model.address = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield model
    await runner.cleanup()


def opened(root: Path, web_address: str, model: Model, *overrides: str) -> LocalToolbox:
    config = load_config(
        "nano",
        overrides=[
            *overrides_for(web_address),
            *(f"run.root={root}", "tools.pages=[jina, fetch]"),
            f"tools.summariser={{base_url: '{model.address}', model: small, prompt_usd: 0.5}}",
            *overrides,
        ],
    )
    keys = Keys(providers={"jina": KEY, "summariser": KEY})
    (config.run_dir / "images").mkdir(parents=True, exist_ok=True)
    return open_toolbox(config, config.run_dir, keys)


async def browse(toolbox: LocalToolbox, url: str, query: str) -> ToolResult:
    call = ToolCall(name="browse", arguments=json.dumps({"url": url, "query": query}))
    return await toolbox.call(call, rollout_id=make_rollout_id())


async def test_browse_gives_the_models_answer_and_a_replay_gives_it_again(
    model: Model, tmp_path: Path
) -> None:
    world = World(num_train=6, num_heldout=2)
    country = world.countries[0]
    (page,) = (page for page in world.pages() if page.title == country.name)
    search = ("tools.search=searxng", "tools.image_search=searxng")
    async with serving(nano_web(tmp_path / "web", world=world)) as address:
        url = f"{address}/page/{page.url}"
        toolbox = opened(tmp_path, address, model, "tools.mode=record", *search)
        first = await browse(toolbox, url, "when founded?")
        again = await browse(toolbox, url, "when founded?")
        model.status = 400
        failed = await browse(toolbox, url, "its capital?")
        counters = toolbox.counters()
        await toolbox.close()

    line = f"[{url}] {country.name}: It was founded in {country.year}. </tool_response>"
    assert (first.text, first.error) == (line, None)
    assert (first.upstream_calls, first.cost_usd) == (2, pytest.approx(0.5, abs=0.01))
    assert (again.text, again.cached, again.cost_usd) == (line, True, 0.0)
    assert model.asked[0]["question"] == "when founded?"
    assert model.asked[0]["page"]["text"].startswith(f"founded {country.year}")

    assert failed.text == UNAVAILABLE
    assert "summariser answered HTTP 400: overloaded" in (failed.error or "")
    assert len(model.asked) == 2, "what cannot get better is not asked again"
    assert (counters.errors, counters.failures) == (1, {"HTTP 400": 1})
    assert counters.dollars["openai:small"] == pytest.approx(0.5), "a failed call is not billed"
    assert counters.dollars["jina"] > 0

    replayed = opened(tmp_path, address, model, "tools.mode=replay", *search)
    assert (await browse(replayed, url, "when founded?")).text == line
    assert (await browse(replayed, url, "its capital?")).text == UNAVAILABLE
    assert len(model.asked) == 2
    await replayed.close()
