"""`gensearcher fake-web` as somebody else's process: what it says, serves, counts and breaks."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from core.config import load_config

pytestmark = pytest.mark.slow  # the encyclopedia is written to disk twice


@pytest.fixture(scope="module")
def said() -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "cluster.cli", "fake-web", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.terminate()


def ask(url: str, *, body: Any = None, method: str | None = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=data, method=method, headers=named)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def test_its_overrides_and_keys_make_a_recipe(said: dict[str, Any]) -> None:
    config = load_config("nano", overrides=["tools.search=serper", *said["overrides"]])

    assert config.tools.serper.base_url == f"{said['address']}/serper"
    assert config.tools.guard.allow == (said["address"].removeprefix("http://"),)
    assert set(config.tools.needed_keys.values()) <= set(said["environment"])


def test_it_answers_counts_and_breaks_when_told(said: dict[str, Any]) -> None:
    url, key = f"{said['address']}/serper/search", said["environment"]["SERPER_API_KEY"]
    body = {"q": "treaty", "num": 2}

    assert len(ask(url, body=body, X_API_KEY=key)["organic"]) == 2
    assert ask(f"{said['address']}/fake-web/calls")["/serper/search"] == 1

    faults = f"{said['address']}/fake-web/faults"
    ask(faults, body={"serper": {"kind": "status", "status": 503, "times": 1}}, method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        ask(url, body=body, X_API_KEY=key)
    assert len(ask(url, body=body, X_API_KEY=key)["organic"]) == 2

    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(faults, body={"serper": {"kind": "earthquake"}}, method="PUT")


def test_a_port_that_is_taken_is_one_sentence(said: dict[str, Any]) -> None:
    port = said["address"].rpartition(":")[2]

    result = CliRunner().invoke(app, ["fake-web", "--port", port])

    assert result.exit_code == 2
    assert f"--port {port}" in result.output
