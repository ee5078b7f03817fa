"""How large a policy or an image model is: read from its config.json, else a table of known names.

Enters: a local folder or a hub id. Leaves: parameter counts and the shapes that memory and
compute follow from. Nothing is loaded or downloaded; a model that is neither here nor in the
table is a ConfigError.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.sections.learner import LearnerConfig

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySize:
    """A Qwen3-VL model."""

    text_params: int
    """Language model with its embeddings and head."""
    vision_params: int
    num_layers: int
    hidden_size: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    linears: Mapping[str, int]
    """Name of each matrix of a layer -> its input and output widths, added up."""
    source: str

    @property
    def params(self) -> int:
        return self.text_params + self.vision_params

    def trained_params(self, learner: LearnerConfig) -> int:
        """Of the adapters alone with LoRA: rank x (input + output) for each matrix."""
        if learner.lora_rank is not None:
            widths = sum(self.linears.get(name, 0) for name in learner.lora_targets)
            return self.num_layers * learner.lora_rank * widths
        return self.text_params if learner.freeze_vision else self.params

    def kv_bytes_per_token(self, *, dtype: str) -> int:
        """Keys and values of every layer."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * BYTES[dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModelSize:
    """A diffusion pipeline: what every step computes, and what only lies in memory."""

    transformer_params: int
    other_params: int
    """Text encoder and VAE."""
    pixels_per_token: int
    """Width (or height) in pixels that one latent token covers."""
    source: str

    @property
    def params(self) -> int:
        return self.transformer_params + self.other_params


_QWEN3_VL_8B: Mapping[str, Any] = {
    "text_config": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
        "out_hidden_size": 4096,
    },
    "tie_word_embeddings": False,
}

_KNOWN_POLICIES = {
    "Qwen/Qwen3-VL-8B-Instruct": _QWEN3_VL_8B,
    "GenSearcher/Gen-Searcher-SFT-8B": _QWEN3_VL_8B,
    "GenSearcher/Gen-Searcher-8B": _QWEN3_VL_8B,
}

_QWEN_IMAGE = ImageModelSize(
    transformer_params=20_430_000_000,
    other_params=8_290_000_000 + 127_000_000,
    pixels_per_token=16,
    source="published sizes: 20B MMDiT, Qwen2.5-VL-7B text encoder, 127M VAE (arXiv 2508.02324)",
)

_KNOWN_IMAGE_MODELS = {
    "Qwen/Qwen-Image": _QWEN_IMAGE,
    "Qwen/Qwen-Image-Edit-2509": _QWEN_IMAGE,
}


def policy_size(path: str) -> PolicySize:
    """Raises ConfigError when the size cannot be known."""
    file = Path(path) / "config.json"
    if file.is_file():
        return size_of_policy_config(_read_json(file), source=f"{file}")
    if path in _KNOWN_POLICIES:
        return size_of_policy_config(_KNOWN_POLICIES[path], source=f"published config of {path}")
    raise ConfigError(
        f"policy.path: {path!r} has no config.json and is not one of "
        f"{', '.join(_KNOWN_POLICIES)}; give the folder of a Qwen3-VL model"
    )


def image_model_size(path: str) -> ImageModelSize:
    """Raises ConfigError when the size cannot be known."""
    folder = Path(path)
    if (folder / "model_index.json").is_file():
        return _size_of_pipeline(folder)
    if path in _KNOWN_IMAGE_MODELS:
        return _KNOWN_IMAGE_MODELS[path]
    raise ConfigError(
        f"render.path: {path!r} has no model_index.json and is not one of "
        f"{', '.join(_KNOWN_IMAGE_MODELS)}; give the folder of a diffusers pipeline"
    )


def served_params(path: str) -> int | None:
    """Parameters of any model that vLLM serves; None: not known here."""
    if stored := _params_on_disk(Path(path)):
        return stored
    try:
        return policy_size(path).params
    except ConfigError:
        return None


def size_of_policy_config(config: Mapping[str, Any], *, source: str) -> PolicySize:
    """Count the parameters of a Qwen3-VL config.json (text decoder, vision tower, mergers).

    Raises ConfigError when it is the config of another kind of model.
    """
    try:
        text = config["text_config"]
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        return PolicySize(
            text_params=_count_text(text, tied=tied),
            vision_params=_count_vision(config["vision_config"]),
            num_layers=text["num_hidden_layers"],
            hidden_size=text["hidden_size"],
            num_kv_heads=text["num_key_value_heads"],
            head_dim=text["head_dim"],
            vocab_size=text["vocab_size"],
            linears=_linears(text),
            source=source,
        )
    except KeyError as error:
        raise ConfigError(
            f"policy.path: {source} has no {error}; it must be that of a Qwen3-VL model"
        ) from error


def _linears(text: Mapping[str, Any]) -> dict[str, int]:
    hidden, head = text["hidden_size"], text["head_dim"]
    queries, keys = (text[f"num_{kind}_heads"] * head for kind in ("attention", "key_value"))
    mlp = hidden + text["intermediate_size"]
    return {
        **{"q_proj": hidden + queries, "k_proj": hidden + keys, "v_proj": hidden + keys},
        **{"o_proj": queries + hidden, "gate_proj": mlp, "up_proj": mlp, "down_proj": mlp},
    }


def _count_text(text: Mapping[str, Any], *, tied: bool) -> int:
    hidden, head = text["hidden_size"], text["head_dim"]
    queries = text["num_attention_heads"] * head
    keys = text["num_key_value_heads"] * head
    attention = 2 * hidden * queries + 2 * hidden * keys + 2 * head
    mlp = 3 * hidden * text["intermediate_size"]
    layer = attention + mlp + 2 * hidden
    embeddings = text["vocab_size"] * hidden * (1 if tied else 2)
    return int(embeddings + text["num_hidden_layers"] * layer + hidden)


def _count_vision(vision: Mapping[str, Any]) -> int:
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    patch = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    embeddings = patch * hidden + hidden + vision["num_position_embeddings"] * hidden
    attention = 4 * hidden * hidden + 4 * hidden
    mlp = 2 * hidden * inner + inner + hidden
    block = attention + mlp + 4 * hidden
    merged = hidden * vision["spatial_merge_size"] ** 2
    out = vision["out_hidden_size"]
    projection = merged * merged + merged + merged * out + out
    last = projection + 2 * hidden
    inner_mergers = len(vision["deepstack_visual_indexes"]) * (projection + 2 * merged)
    return int(embeddings + vision["depth"] * block + last + inner_mergers)


def _size_of_pipeline(folder: Path) -> ImageModelSize:
    """Weight files tell the parameters: bytes over the bytes of the stored type."""
    transformer = _params_on_disk(folder / "transformer")
    others = sum(
        _params_on_disk(part)
        for part in folder.iterdir()
        if part.is_dir() and part.name != "transformer"
    )
    patch = int(_read_json(folder / "transformer" / "config.json").get("patch_size", 2))
    return ImageModelSize(
        transformer_params=transformer,
        other_params=others,
        pixels_per_token=_pixels_per_token(folder, patch=patch),
        source=f"weight files in {folder}",
    )


def _pixels_per_token(folder: Path, *, patch: int) -> int:
    vae = folder / "vae" / "config.json"
    if not vae.is_file():
        return patch
    scale = 2 ** len(_read_json(vae).get("temperal_downsample", (1, 1, 1)))
    return int(patch * scale)


def _params_on_disk(folder: Path) -> int:
    """Elements in the safetensors files of a folder, read from their headers alone."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                total += _product(tensor["shape"])
    return total


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return value
