"""What is known of an image model without loading it: its name and how many references it takes.

In: a `RenderConfig`. Fails with `ConfigError` when `render.path` is a folder without a pipeline.
Imports neither torch nor diffusers, so that the driver stays light.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from core.errors import ConfigError, RenderError
from core.records import RenderRequest
from core.sections.scoring import RenderConfig

MAX_REFERENCES: Final = {"nano": 3, "qwen-image-edit": 3, "qwen-image": 0}
"""How many references one request may hold, by `render.pipeline`."""

_SAMPLED_BYTES: Final = 2**20


def image_model_name(config: RenderConfig) -> str:
    """A name that changes with anything, beside the request, that decides the pixels.

    For a local folder it covers the pipeline's files: small ones whole, of large ones the size and
    the first MiB.
    """
    folder = Path(config.path)
    parts = [config.dtype, str(config.width), str(config.height), str(config.true_cfg_scale)]
    parts += _file_digests(folder) if folder.exists() else [config.path]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return f"{config.pipeline}@{digest[:12]}"


def check_references(request: RenderRequest, *, max_references: int) -> None:
    """Raises RenderError when the model cannot take the request's references."""
    if len(request.references) > max_references:
        raise RenderError(
            f"{len(request.references)} reference images, but {request.model} takes "
            f"{max_references} at most; let the answer choose fewer",
            retryable=False,
        )


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
