"""The served model's client over real Serve replicas: errors, a slow one, one that dies."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import serve

from actors.served_model import ServedHttp
from core.endpoint import Endpoint, HttpRequest, Limits
from core.errors import JudgeError, ToolError
from core.protocols import HttpResponse
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.ray]

APP = "served-model-test"
LIMITS = Limits(
    per_second=100.0,
    max_in_flight=4,
    timeout_s=20.0,
    deadline_s=120.0,
    max_tries=60,
    first_pause_s=0.5,
)


@serve.deployment(name="Scripted", ray_actor_options={"num_cpus": 0.1})
class Scripted:
    """Answers as vLLM's replica would; the body says what happens, and notes go to its file."""

    async def chat(self, body: dict[str, Any]) -> tuple[int, str]:
        note = Path(body.get("note", ""))
        match body["do"]:
            case "die once" if not note.exists():
                note.touch()
                os._exit(1)
            case "hang":
                Path(f"{note}-begun").touch()
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    note.touch()
                    raise
            case "raise":
                raise ZeroDivisionError("a bug")
            case "refuse":
                return 400, json.dumps({"error": {"message": "the prompt is too long"}})
        return 200, "{}"


@pytest.fixture(scope="module", autouse=True)
def replica(ray_cluster: str) -> Iterator[None]:
    serve.start(proxy_location="Disabled")
    serve.run(Scripted.bind(), name=APP, route_prefix=None)
    yield
    serve.shutdown()


async def ask(do: str, note: Path = Path(), *, timeout_s: float = 60.0) -> HttpResponse:
    body = {"do": do, "note": str(note)}
    return await ServedHttp(APP).request(
        "POST", "served:", json_body=body, timeout_s=timeout_s, max_bytes=1000
    )


async def test_a_question_outlives_the_replica_that_it_kills(tmp_path: Path) -> None:
    """Who asks again, Serve's router or the endpoint, depends on when the loss is noticed."""
    endpoint = Endpoint(ServedHttp(APP), name="served", limits=LIMITS, error=JudgeError)
    body = {"do": "die once", "note": str(tmp_path / "died")}
    request = HttpRequest(method="POST", url="served:", json_body=body)
    assert await endpoint.ask(request, lambda response: response.body) == b"{}"
    assert (tmp_path / "died").exists()


async def test_a_question_that_nobody_waits_for_is_taken_from_the_replica(tmp_path: Path) -> None:
    cancelled, timeout_s = tmp_path / "cancelled", 1.0
    while not (tmp_path / "cancelled-begun").exists():  # on a busy machine it takes longer
        with pytest.raises(ToolError, match="did not answer"):
            await ask("hang", cancelled, timeout_s=timeout_s)
        timeout_s *= 2
    await until(cancelled.exists)


async def test_what_the_model_refuses_is_a_status_and_a_bug_is_an_error() -> None:
    refused = await ask("refuse")
    assert refused.status == 400
    assert b"too long" in refused.body
    with pytest.raises(ToolError, match="ZeroDivisionError"):
        await ask("raise")


async def test_a_model_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(ToolError, match="the model nobody is not served"):
        await ServedHttp("nobody").request(
            "POST", "served:", json_body={}, timeout_s=5.0, max_bytes=1000
        )
