"""The nano pipeline and the painter around it, with a tiny random network."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from actors.diffusion import Painter
from actors.image_models import image_model_name
from actors.nano_pipeline import (
    NanoEditPlusPipeline,
    encode_prompts,
    from_patches,
    normalise,
    to_patches,
)
from core.errors import ConfigError, RenderError
from core.sections.scoring import RenderConfig
from envs.nano.flags import Flag, draw, encode_png
from tests.builders import make_image_ref, make_render_request, png_bytes
from tests.builders_diffusion import save_nano_pipeline
from tests.device import DEVICE

FLAG = Flag(
    layout="halves",
    field="red",
    second="white",
    symbol="star",
    symbol_colour="blue",
    banner=None,
)
OTHER = Flag(
    layout="plain",
    field="green",
    second=None,
    symbol="ring",
    symbol_colour="black",
    banner=None,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_nano_pipeline(tmp_path_factory.mktemp("nano") / "renderer")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> NanoEditPlusPipeline:
    loaded = NanoEditPlusPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def config(folder: Path, **changes: object) -> RenderConfig:
    return RenderConfig(
        path=str(folder), steps=2, num_gpus_per_replica=float(DEVICE == "cuda"), **changes
    )


def picture(flag: Flag) -> Image.Image:
    return Image.fromarray(draw(flag))


def drawn(pipeline: NanoEditPlusPipeline, **arguments: object) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    result = pipeline(num_inference_steps=2, generator=generator, **arguments)
    return np.asarray(result.images[0])


def test_patches_round_trip() -> None:
    pictures = torch.rand(2, 32, 32, 3)
    assert torch.equal(from_patches(to_patches(pictures)), pictures)
    tokens = normalise(draw(FLAG)[None])
    assert tokens.shape == (1, 64, 48)
    assert tokens.abs().max() <= 1


def test_words_outside_the_vocabulary_do_not_reach_the_network() -> None:
    plain = encode_prompts(["red white halves blue star banner 47"])
    prose = encode_prompts(["A flag: red and white halves with a blue star! The banner reads 47."])
    assert plain.shape == (1, 7, 61)
    assert (plain.sum(-1) == 1).all()
    assert torch.equal(plain, prose)
    assert not torch.equal(plain, encode_prompts(["red white halves blue star banner 74"]))


def test_the_prompt_decides_which_reference_is_copied(pipeline: NanoEditPlusPipeline) -> None:
    images = [picture(FLAG), picture(OTHER)]
    first = drawn(pipeline, prompt="banner 47", image=images)
    assert (first == drawn(pipeline, prompt="banner 47", image=picture(FLAG))).all()
    second = drawn(pipeline, prompt="second reference image banner 47", image=images)
    assert (second == drawn(pipeline, prompt="banner 47", image=[picture(OTHER)])).all()
    assert (first != second).any()


def test_guidance_needs_a_negative_prompt_and_a_scale(pipeline: NanoEditPlusPipeline) -> None:
    plain = drawn(pipeline, prompt="red plain")
    assert (plain == drawn(pipeline, prompt="red plain", true_cfg_scale=4.0)).all()
    scale_one = drawn(pipeline, prompt="red plain", negative_prompt=" ", true_cfg_scale=1.0)
    assert (plain == scale_one).all()
    guided = drawn(pipeline, prompt="red plain", negative_prompt=" ", true_cfg_scale=4.0)
    assert (plain != guided).any()


def test_references_of_any_size_and_mode_are_taken(pipeline: NanoEditPlusPipeline) -> None:
    large = picture(FLAG).resize((320, 320), Image.Resampling.NEAREST).convert("RGBA")
    same = drawn(pipeline, prompt="", image=large) == drawn(
        pipeline, prompt="", image=picture(FLAG)
    )
    assert same.all()


def test_the_pipeline_refuses_what_it_cannot_do(pipeline: NanoEditPlusPipeline) -> None:
    with pytest.raises(ValueError, match="4 references: this model takes 3"):
        drawn(pipeline, prompt="", image=[picture(FLAG)] * 4)
    with pytest.raises(ValueError, match="draws 32x32"):
        drawn(pipeline, prompt="", height=64, width=64)


def test_the_painter_is_a_pure_function_of_the_request(folder: Path) -> None:
    painter = Painter(config(folder))
    references = [encode_png(draw(FLAG))]
    request = make_render_request(steps=2, references=(make_image_ref(),))
    data = painter.paint(request, references=references)
    assert data.startswith(b"\x89PNG")
    assert data == Painter(config(folder)).paint(request, references=references)
    other_seed = make_render_request(steps=2, seed=1, references=(make_image_ref(),))
    assert data != painter.paint(other_seed, references=references)
    assert data != painter.paint(make_render_request(steps=2), references=[])


def test_the_painter_attributes_what_a_pipeline_raises(folder: Path) -> None:
    request = make_render_request(references=(make_image_ref(),))
    with pytest.raises(RenderError, match="8 bytes are not a whole PNG"):
        Painter(config(folder)).paint(request, references=[b"no image"])
    with pytest.raises(RenderError, match="draws 32x32"):
        Painter(config(folder, width=64, height=64)).paint(make_render_request(), references=[])


def test_a_see_through_reference_is_drawn_from_as_the_policy_saw_it(folder: Path) -> None:
    """Laid on white, whatever colour stands behind the transparency."""
    painter, request = Painter(config(folder)), make_render_request(references=(make_image_ref(),))
    buffer = io.BytesIO()
    Image.new("RGBA", (32, 32), (0, 0, 255, 0)).save(buffer, format="PNG")
    clear, white = buffer.getvalue(), png_bytes((255, 255, 255))
    assert painter.paint(request, references=[clear]) == painter.paint(request, references=[white])


def test_too_many_references_are_refused_not_cut_off(folder: Path) -> None:
    painter = Painter(config(folder))
    assert painter.max_references == 3
    request = make_render_request(references=(make_image_ref(),) * 4)
    with pytest.raises(RenderError, match="4 reference images") as error:
        painter.paint(request, references=[png_bytes()] * 4)
    assert not error.value.retryable


def test_the_name_changes_with_weights_and_settings(folder: Path, tmp_path: Path) -> None:
    name = image_model_name(config(folder))
    assert name.startswith("nano@")
    assert name == image_model_name(config(folder))
    assert name != image_model_name(config(folder, dtype="bfloat16"))
    other = save_nano_pipeline(tmp_path / "other", seed=1)
    assert name != image_model_name(config(other))


def test_a_folder_without_a_pipeline_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_index\.json"):
        image_model_name(config(tmp_path))
    with pytest.raises(ConfigError, match=r"render\.path"):
        Painter(config(tmp_path / "missing"))


def test_the_driver_learns_the_name_without_loading_torch() -> None:
    script = "import sys, actors.image_models, actors.render_client; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
