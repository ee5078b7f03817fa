"""What actors are given, wherever they run."""

from pathlib import Path

import pytest

from cluster.openers import anchored
from core.config import build_config


def test_an_actor_in_another_folder_finds_the_files_that_the_recipe_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tools = {"store": "store", "corpus": "birds", "guard": {"benchmark": "bench.json"}}
    config = anchored(build_config({"tools": tools, "judge": {"prompt_file": "mine.yaml"}}))

    found = [config.tools.store, config.tools.corpus, config.tools.guard.benchmark]
    assert found == [f"{tmp_path}/{name}" for name in ("store", "birds", "bench.json")]
    assert config.judge.prompt_file == f"{tmp_path}/mine.yaml"


def test_what_is_not_named_stays_so() -> None:
    config = build_config({})

    assert anchored(config) == config
