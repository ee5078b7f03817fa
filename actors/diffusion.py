"""Diffusers pipelines as image models.

In: a `RenderConfig` and requests with the bytes of their references. Out: PNG bytes, the same for
the same request on the same device. How a pipeline is called stands in a `PipelineCallConfig`:
that of a known `render.pipeline` (actors/image_models.py), or `render.call` for a custom one.
Edit-Plus always wants an image, so without references its components draw in a text pipeline.

Fails with `ConfigError` when the folder is no such pipeline or the call does not fit its signature,
and with `RenderError` for a request that the model cannot take (references are refused, never cut
off) or a pipeline that raises.
"""

import inspect
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import diffusers
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from actors.image_models import (
    check_references,
    image_model_name,
    max_references,
    pipeline_call,
)
from actors.nano_pipeline import NanoEditPlusPipeline
from core.errors import ConfigError, DataError, RenderError, boundary
from core.records import RenderRequest
from core.sections.image_models import PipelineCallConfig
from core.sections.scoring import RenderConfig
from envs.images import decode_rgb

_OURS: Final[dict[str, type[DiffusionPipeline]]] = {"NanoEditPlusPipeline": NanoEditPlusPipeline}
_NEGATIVE_PROMPT: Final = " "


class Painter:
    """A loaded pipeline. Blocking, one picture at a time."""

    def __init__(self, config: RenderConfig) -> None:
        self.name = image_model_name(config)
        self.max_references = max_references(config)
        self._config = config
        self._call = pipeline_call(config)
        self._device = "cuda" if config.num_gpus_per_replica > 0 else "cpu"
        self._pipeline = _load(config, self._call).to(self._device)
        self._text_pipeline = _text_pipeline(self._pipeline, self._call)
        _check_call(self._pipeline, self._call, with_references=self._call.references is not None)
        _check_call(self._text_pipeline, self._call, with_references=False)
        for pipeline in (self._pipeline, self._text_pipeline):
            pipeline.set_progress_bar_config(disable=True)

    def paint(self, request: RenderRequest, *, references: Sequence[bytes]) -> bytes:
        """The picture as PNG; `references` are the bytes of `request.references`, in order."""
        check_references(request, max_references=self.max_references)
        with boundary(RenderError, f"drawing {request.key[:12]}"):
            images = [_decode(data) for data in references]
            arguments = self._arguments(request, images)
            pipeline = self._pipeline if images else self._text_pipeline
            picture = pipeline(**arguments).images[0]
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG")
        return buffer.getvalue()

    def _arguments(self, request: RenderRequest, images: Sequence[Image.Image]) -> dict[str, Any]:
        config = self._config
        by_setting: dict[str, Any] = {
            "prompt": request.prompt,
            "steps": request.steps,
            "guidance": config.true_cfg_scale,
            "height": config.height,
            "width": config.width,
        }
        if config.true_cfg_scale > 1:
            by_setting["negative_prompt"] = _NEGATIVE_PROMPT
        if images:
            single = self._call.references_as == "single"
            by_setting["references"] = images[0] if single else list(images)
        names = _argument_names(self._call)
        return {
            "generator": torch.Generator(self._device).manual_seed(request.seed),
            **{names[setting]: value for setting, value in by_setting.items() if setting in names},
            **self._call.extra,
        }


def _load(config: RenderConfig, call: PipelineCallConfig) -> DiffusionPipeline:
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    kind = _pipeline_class(call.pipeline_class, field="pipeline_class")
    try:
        # A pickle in a downloaded folder could run anything.
        return kind.from_pretrained(config.path, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"render.path {config.path!r} holds no {kind.__name__} ({error}); "
            "name a diffusers folder, or run `gensearcher nano build` for the nano model"
        ) from error


def _pipeline_class(name: str, *, field: str) -> type[DiffusionPipeline]:
    kind = _OURS.get(name) or getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, DiffusionPipeline)):
        raise ConfigError(
            f"render.call.{field} {name!r} is no pipeline of diffusers {diffusers.__version__}; "
            "take a class that its documentation lists, e.g. FluxPipeline"
        )
    return kind


def _text_pipeline(pipeline: DiffusionPipeline, call: PipelineCallConfig) -> DiffusionPipeline:
    """What draws without references, of the same components."""
    if call.text_class is None:
        return pipeline
    kind = _pipeline_class(call.text_class, field="text_class")
    wanted = inspect.signature(kind.__init__).parameters
    components = {name: pipeline.components[name] for name in wanted if name in pipeline.components}
    missing = _without_default(wanted) - {"self", *components}
    if missing:
        raise ConfigError(
            f"render.call.text_class {kind.__name__} needs {', '.join(sorted(missing))}, which "
            f"{type(pipeline).__name__} does not have; take a class of the same family"
        )
    return kind(**components)


def _argument_names(call: PipelineCallConfig) -> dict[str, str]:
    """The settings that the pipeline takes, with the argument that takes each."""
    settings = ("prompt", "references", "steps", "guidance", "negative_prompt", "height", "width")
    return {name: argument for name in settings if (argument := getattr(call, name)) is not None}


def _check_call(
    pipeline: DiffusionPipeline, call: PipelineCallConfig, *, with_references: bool
) -> None:
    """Raises ConfigError for an argument that the pipeline does not take, or one it still needs."""
    kind = type(pipeline).__name__
    parameters = inspect.signature(type(pipeline).__call__).parameters
    named = _argument_names(call)
    if not with_references:
        named.pop("references", None)
    settings = {argument: f"render.call.{setting}" for setting, argument in named.items()}
    settings |= dict.fromkeys(call.extra, "render.call.extra")
    settings["generator"] = "the seed"
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for argument, setting in settings.items():
        if argument not in parameters and not takes_any:
            known = ", ".join(name for name in parameters if name != "self")
            raise ConfigError(
                f"{setting} names {argument!r}, which is no argument of {kind}; it takes {known}"
            )
    needed = _without_default(parameters) - {"self", *settings}
    if needed:
        raise ConfigError(
            f"{kind} needs {', '.join(sorted(needed))}, which no field of render.call gives; "
            "set render.call.references or render.call.extra"
        )


def _without_default(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind in named
    }


def _decode(data: bytes) -> Image.Image:
    try:
        return decode_rgb(data)
    except DataError as error:
        raise RenderError(f"a reference cannot be read: {error}", retryable=False) from error
