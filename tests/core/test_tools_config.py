"""The providers of the tools, as a recipe names them."""

from pathlib import Path

import pytest

from core.config import load_config, save_config
from core.errors import ConfigError


def test_one_name_may_stand_alone_and_several_are_an_order() -> None:
    tools = load_config(
        "nano", overrides=["tools.search=serper", "tools.pages=[fetch, jina]"]
    ).tools

    assert (tools.search, tools.image_search) == (("serper",), ("nano",))
    assert tools.pages == ("fetch", "jina")
    assert tools.providers == ("serper", "nano", "fetch", "jina")


def test_only_providers_that_are_used_need_a_key() -> None:
    tools = load_config(
        "nano",
        overrides=[
            *("tools.search=[brave, serper]", "tools.image_search=serper", "tools.pages=jina"),
            "tools.serper.api_key_env=MY_KEY",
        ],
    ).tools

    assert tools.needed_keys == {"brave": "BRAVE_API_KEY", "serper": "MY_KEY"}


def test_a_summariser_that_the_run_serves_needs_no_key_and_a_replay_no_model() -> None:
    asked = load_config("nano", overrides=["tools.summariser.model=small"]).tools
    served = ["tools.summariser.max_page_tokens=8000", "tools.summariser.served.path=models/small"]
    ours = load_config("nano", overrides=served).tools
    replay = load_config("nano", overrides=[*served, "tools.mode=replay"]).tools

    assert (asked.needed_keys, asked.served_summariser) == ({"summariser": "OPENAI_API_KEY"}, None)
    assert ours.needed_keys == {}
    assert ours.served_summariser is not None
    assert (ours.served_summariser.path, ours.served_summariser.max_images) == ("models/small", 0)
    assert replay.served_summariser is None


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["tools.search=searxng"], "tools.searxng.base_url is not set; give the address"),
        (["tools.pages=[fetch, local]"], "tools.corpus is not set; name a corpus"),
        (["tools.search=[serper, serper]"], "tools.search: Value error, a provider stands twice"),
        (["tools.search=[]"], "tools.search: Value should have at least 1 item"),
        (["tools.search=google"], "tools.search.0"),
        (["tools.pages=serper"], "tools.pages.0"),
        (["tools.serper.base_url=ftp://x"], "tools.serper.base_url: String should match"),
        (["tools.summariser.timeout_s=9"], "needs a model; set tools.summariser.model, or"),
        (["tools.summariser.served.dtype=float32"], "tools.summariser.served.path is not set"),
        (["tools.summariser.served.path=m"], "raise it to 25536 or lower tools.summariser.max_"),
        (["tools.serper.api_key=abc"], "did you mean 'tools.serper.api_key_env'?"),
    ],
)
def test_a_bad_list_is_one_clear_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("nano", overrides=overrides)

    assert sentence in str(caught.value)


def test_a_saved_list_reads_back(tmp_path: Path) -> None:
    config = load_config(
        "nano", overrides=["tools.search=[searxng]", "tools.searxng.base_url=http://10.0.0.5:8888"]
    )
    path = tmp_path / "config.yaml"
    save_config(config, path)

    assert load_config(str(path)) == config
