"""Any diffusers pipeline by class name and call map, on tiny real pipelines."""

from pathlib import Path
from typing import Any

import pytest

from actors.diffusion import Painter
from core.errors import ConfigError, RenderError
from core.sections.scoring import RenderConfig
from tests.builders import make_image_ref, make_render_request, png_bytes
from tests.builders_diffusion import save_edit_plus_pipeline, save_text_pipeline

REFERENCES = [png_bytes((255, 0, 0)), png_bytes((0, 0, 255))]


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_edit_plus_pipeline(tmp_path_factory.mktemp("pipelines") / "edit")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_pipeline(tmp_path_factory.mktemp("pipelines") / "text")


def custom(path: Path, *, scale: float = 1.0, **call: Any) -> RenderConfig:
    size = {"width": 64, "height": 64, "steps": 2, "true_cfg_scale": scale}
    return RenderConfig.model_validate(
        {"pipeline": "custom", "path": str(path), "call": call, **size}
    )


def known(path: Path, pipeline: str, *, scale: float = 1.0) -> RenderConfig:
    size = {"width": 64, "height": 64, "steps": 2, "true_cfg_scale": scale}
    return RenderConfig.model_validate({"pipeline": pipeline, "path": str(path), **size})


def paint(painter: Painter, *references: bytes) -> bytes:
    refs = tuple(make_image_ref(str(n)) for n in range(len(references)))
    request = make_render_request(prompt="A blue star.", steps=2, references=refs)
    return painter.paint(request, references=references)


LIST = {
    "pipeline_class": "QwenImageEditPlusPipeline",
    "text_class": "QwenImagePipeline",
    "references": "image",
    "max_references": 2,
    "guidance": "true_cfg_scale",
    "negative_prompt": "negative_prompt",
}


def test_a_written_call_draws_what_the_known_one_draws(edit: Path) -> None:
    ours = Painter(known(edit, "qwen-image-edit", scale=4.0))
    written = Painter(custom(edit, scale=4.0, **LIST))

    assert paint(written, *REFERENCES) == paint(ours, *REFERENCES)
    assert paint(written) == paint(ours), "without references the text pipeline draws"
    assert written.max_references == 2
    with pytest.raises(RenderError, match="takes 2 at most"):
        paint(written, *REFERENCES, REFERENCES[0])


def test_a_pipeline_that_takes_one_image(edit: Path) -> None:
    call = {"pipeline_class": "QwenImageEditPipeline", "references_as": "single"}
    painter = Painter(custom(edit, **(LIST | call | {"max_references": 1})))

    red, blue = (paint(painter, picture) for picture in REFERENCES)
    assert red != blue
    with pytest.raises(ConfigError, match="set it to 1"):
        Painter(custom(edit, **(LIST | call)))


def test_the_class_may_be_the_one_that_the_folder_names(text: Path) -> None:
    painter = Painter(custom(text, guidance="true_cfg_scale", extra={"max_sequence_length": 512}))

    assert painter.max_references == 0
    assert paint(painter) == paint(Painter(known(text, "qwen-image")))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"guidance": "cfg"}, r"render\.call\.guidance names 'cfg', .* takes prompt"),
        ({"references": "image"}, r"render\.call\.references names 'image'"),
        ({"extra": {"strength": 0.5}}, r"render\.call\.extra names 'strength'"),
        ({"pipeline_class": "NoSuchPipeline"}, "is no pipeline of diffusers"),
        ({"pipeline_class": "AutoencoderKL"}, "is no pipeline of diffusers"),
        ({"text_class": "QwenImageEditPlusPipeline"}, "needs processor"),
    ],
)
def test_a_call_that_does_not_fit_is_one_sentence(
    text: Path, call: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Painter(custom(text, **call))
