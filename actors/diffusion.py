"""Diffusers pipelines as image models.

In: a `RenderConfig` and requests with the bytes of their references. Out: PNG bytes, the same for
the same request on the same device. `render.pipeline` picks the classes:

nano             NanoEditPlusPipeline, with or without references
qwen-image-edit  QwenImageEditPlusPipeline with references; without any, QwenImagePipeline around
                 the same components
qwen-image       QwenImagePipeline; takes no references

Fails with `ConfigError` when the folder is no pipeline, and with `RenderError` for a request that
the model cannot take (references are refused, never cut off) or a pipeline that raises.
"""

import asyncio
import io
import time
from collections.abc import Sequence
from typing import Final

import torch
from diffusers import DiffusionPipeline, QwenImageEditPlusPipeline, QwenImagePipeline
from PIL import Image

from actors.image_models import MAX_REFERENCES, check_references, image_model_name
from actors.nano_pipeline import NanoEditPlusPipeline
from core.errors import ConfigError, RenderError, boundary
from core.protocols import ImageStore
from core.records import RenderedImage, RenderRequest
from core.sections.scoring import RenderConfig

_CLASSES: Final[dict[str, type[DiffusionPipeline]]] = {
    "nano": NanoEditPlusPipeline,
    "qwen-image-edit": QwenImageEditPlusPipeline,
    "qwen-image": QwenImagePipeline,
}
_NEGATIVE_PROMPT: Final = " "


class Painter:
    """A loaded pipeline. Blocking, one picture at a time."""

    def __init__(self, config: RenderConfig) -> None:
        self.name = image_model_name(config)
        self.max_references = MAX_REFERENCES[config.pipeline]
        self._config = config
        self._device = "cuda" if config.num_gpus_per_replica > 0 else "cpu"
        self._pipeline = _load(config).to(self._device)
        self._text_pipeline = _text_pipeline(self._pipeline)
        for pipeline in (self._pipeline, self._text_pipeline):
            pipeline.set_progress_bar_config(disable=True)

    def paint(self, request: RenderRequest, *, references: Sequence[bytes]) -> bytes:
        """The picture as PNG; `references` are the bytes of `request.references`, in order."""
        check_references(request, max_references=self.max_references)
        guided = self._config.true_cfg_scale > 1
        arguments = {
            "prompt": request.prompt,
            "negative_prompt": _NEGATIVE_PROMPT if guided else None,
            "true_cfg_scale": self._config.true_cfg_scale,
            "height": self._config.height,
            "width": self._config.width,
            "num_inference_steps": request.steps,
            "generator": torch.Generator(self._device).manual_seed(request.seed),
        }
        with boundary(RenderError, f"drawing {request.key[:12]}"):
            if references:
                images = [_decode(data) for data in references]
                picture = self._pipeline(image=images, **arguments).images[0]
            else:
                picture = self._text_pipeline(**arguments).images[0]
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG")
        return buffer.getvalue()


class DiffusersImageModel:
    """Implements core.protocols.ImageModel in this process, around one pipeline."""

    def __init__(self, config: RenderConfig, *, store: ImageStore) -> None:
        self._painter = Painter(config)
        self._store = store
        self._busy = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._painter.name

    @property
    def max_references(self) -> int:
        return self._painter.max_references

    async def render(self, request: RenderRequest) -> RenderedImage:
        """Draw on a thread; the event loop stays free. Raises RenderError."""
        references = [self._store.get(reference) for reference in request.references]
        async with self._busy:
            started = time.perf_counter()
            data = await asyncio.to_thread(self._painter.paint, request, references=references)
            seconds = time.perf_counter() - started
        return RenderedImage(
            image=self._store.put(data), request=request, seconds=seconds, cached=False
        )


def _load(config: RenderConfig) -> DiffusionPipeline:
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    kind = _CLASSES[config.pipeline]
    try:
        return kind.from_pretrained(config.path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"render.path {config.path!r} holds no {kind.__name__} ({error}); "
            "name a diffusers folder, or run `gensearcher nano build` for the nano model"
        ) from error


def _text_pipeline(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """What draws without references: Edit-Plus always wants an image, so its parts are reused."""
    if not isinstance(pipeline, QwenImageEditPlusPipeline):
        return pipeline
    return QwenImagePipeline(
        scheduler=pipeline.scheduler,
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        transformer=pipeline.transformer,
    )


def _decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")
