"""Sizes of models that no table holds."""

from pathlib import Path
from typing import Any

import pytest

from cluster.plan.model_sizes import image_model_size, policy_size, size_of_policy_config
from core.errors import ConfigError
from tests.builders_cluster import write_safetensors


def test_a_pipelines_size_is_that_of_its_weight_files(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "transformer", shapes=[[3, 4], [5]])
    write_safetensors(tmp_path / "text_encoder", shapes=[[100]])
    (tmp_path / "transformer" / "config.json").write_text('{"patch_size": 2}')
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"temperal_downsample": [false, true, true]}')
    (tmp_path / "model_index.json").write_text("{}")

    size = image_model_size(str(tmp_path))

    assert (size.transformer_params, size.other_params) == (17, 100)
    assert size.pixels_per_token == 16


@pytest.mark.parametrize("size_of", [policy_size, image_model_size])
def test_an_unknown_model_is_refused_in_one_sentence(size_of: Any) -> None:
    with pytest.raises(ConfigError, match="'nobody/nothing' has no"):
        size_of("nobody/nothing")


def test_the_config_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no 'text_config'; it must be that of a Qwen3-VL"):
        size_of_policy_config({"hidden_size": 8}, source="config.json")
