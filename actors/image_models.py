"""What is known of an image model without loading it: its name and how many references it takes.

In: a `RenderConfig`. Fails with `ConfigError` when `render.path` is a folder without a pipeline or
`render.api.model` is empty. Imports neither torch nor diffusers, so that the driver stays light.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from core.errors import ConfigError, RenderError
from core.records import RenderRequest
from core.sections.image_models import PipelineCallConfig
from core.sections.scoring import RenderConfig
from envs.answers import MAX_REFERENCES

PIPELINE_CALLS: Final = {
    "nano": PipelineCallConfig(
        pipeline_class="NanoEditPlusPipeline",
        references="image",
        max_references=3,
        guidance="true_cfg_scale",
        negative_prompt="negative_prompt",
    ),
    "qwen-image-edit": PipelineCallConfig(
        pipeline_class="QwenImageEditPlusPipeline",
        text_class="QwenImagePipeline",
        references="image",
        max_references=3,
        guidance="true_cfg_scale",
        negative_prompt="negative_prompt",
    ),
    "qwen-image": PipelineCallConfig(
        pipeline_class="QwenImagePipeline",
        guidance="true_cfg_scale",
        negative_prompt="negative_prompt",
    ),
}
"""How the pipelines that we know are called, by `render.pipeline`."""

API_MAX_REFERENCES: Final = {"openai": 16, "gemini": 14, "seedream": 14}
"""Of the provider's newest model, by `render.backend`."""
API_KEYS: Final = {
    "openai": "OPENAI_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "seedream": "ARK_API_KEY",
}
"""The variable that usually holds the key."""

_SAMPLED_BYTES: Final = 2**20


def is_api(config: RenderConfig) -> bool:
    """Does somebody else draw, over HTTP?"""
    return config.backend != "diffusers"


def api_key_variable(config: RenderConfig) -> str:
    """The environment variable of the image model's key; "" when none is needed."""
    if not is_api(config):
        return ""
    named = config.api.api_key_env
    return API_KEYS[config.backend] if named is None else named


def pipeline_call(config: RenderConfig) -> PipelineCallConfig:
    return PIPELINE_CALLS.get(config.pipeline, config.call)


def max_references(config: RenderConfig) -> int:
    """How many references one request may hold."""
    if is_api(config):
        limit = config.api.max_references
        return API_MAX_REFERENCES[config.backend] if limit is None else limit
    call = pipeline_call(config)
    if call.references is None:
        return 0
    if call.references_as == "single" and call.max_references > 1:
        raise ConfigError(
            f"render.call.max_references {call.max_references}: with references_as single the "
            "pipeline takes one image; set it to 1"
        )
    return call.max_references


def references_of_an_answer(config: RenderConfig) -> int:
    """How many references the policy may choose: what the model takes, unless more are mended."""
    if config.extra_references == "renumber":
        return MAX_REFERENCES
    return min(MAX_REFERENCES, max_references(config))


def image_model_name(config: RenderConfig) -> str:
    """A name that changes with anything, beside the request, that decides the pixels.

    "nano@12ab.." promises that equal requests give equal pictures: the digest covers the settings
    and, for a local folder, the pipeline's files (small ones whole, of large ones the size and the
    first MiB). "openai:gpt-image-1~12ab.." promises only that the same was asked of the same
    endpoint: a provider takes no seed and may change its weights under a name.
    """
    if is_api(config):
        return _api_name(config)
    folder = Path(config.path)
    parts = [config.dtype, str(config.width), str(config.height), str(config.true_cfg_scale)]
    if config.pipeline == "custom":
        parts.append(config.call.model_dump_json())
    parts += _file_digests(folder) if folder.exists() else [config.path]
    return f"{config.pipeline}@{_digest(parts)}"


def check_references(request: RenderRequest, *, max_references: int) -> None:
    """Raises RenderError when the model cannot take the request's references."""
    if len(request.references) > max_references:
        raise RenderError(
            f"{len(request.references)} reference images, but {request.model} takes "
            f"{max_references} at most; let the answer choose fewer, or set "
            "render.extra_references=renumber",
            retryable=False,
        )


def _api_name(config: RenderConfig) -> str:
    api = config.api
    if not api.model:
        raise ConfigError(
            f"render.api.model is empty; name the image model that {config.backend} is asked for"
        )
    parts = [api.base_url, api.size, api.aspect_ratio, json.dumps(api.extra_body, sort_keys=True)]
    return f"{config.backend}:{api.model}~{_digest(parts)}"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _file_digests(folder: Path) -> Iterator[str]:
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"render.path {str(folder)!r} has no model_index.json; name a diffusers folder, or run "
            "`gensearcher nano build` for the nano model"
        )
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".txt"):
            with path.open("rb") as file:
                head = hashlib.sha256(file.read(_SAMPLED_BYTES)).hexdigest()
            yield f"{path.relative_to(folder)}:{path.stat().st_size}:{head}"
