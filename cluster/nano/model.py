"""The nano policy as a network: a small Qwen3-VL, its pixels and positions, and its folder.

In: a seed, or documents. Out: a `Qwen3VLForConditionalGeneration` of about 0.9 M parameters, and
the padded batches it trains on. Pixels equal those of the processor in cluster/nano/tokenizer.py,
positions those of the model's own `get_rope_index`; tests hold both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from cluster.nano.documents import Document
from cluster.nano.tokenizer import END_OF_TURN, MERGE, PATCH
from envs.nano.flags import SIZE, Flag, draw

HIDDEN: Final = 128
LAYERS: Final = 4
HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_DIM: Final = 32
INTERMEDIATE: Final = 256
VISION_HIDDEN: Final = 64
VISION_DEPTH: Final = 2
_GRID: Final = SIZE // PATCH
_FRAMES: Final = 2


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Qwen3VLForConditionalGeneration:
    """An untrained policy in float32."""
    torch.manual_seed(seed)

    def token_id(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [8, 4, 4],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": VISION_DEPTH,
            "hidden_size": VISION_HIDDEN,
            "num_heads": 2,
            "intermediate_size": 2 * VISION_HIDDEN,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": _FRAMES,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    model.generation_config.eos_token_id = token_id(END_OF_TURN)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    token_ids: torch.Tensor
    """[B, T], padded on the right."""
    weights: torch.Tensor
    """[B, T] weight of each token as a target."""
    positions: torch.Tensor
    """[3, B, T] time, height, width."""
    images: dict[str, torch.Tensor]
    """The model's image arguments; empty when no document has an image."""


def collate(documents: Sequence[Document], *, pad_id: int, image_id: int) -> Batch:
    shape = (len(documents), max(len(document.token_ids) for document in documents))
    token_ids, weights = np.full(shape, pad_id), np.zeros(shape, np.float32)
    positions = np.zeros((3, *shape), np.int64)
    for row, document in enumerate(documents):
        length = len(document.token_ids)
        token_ids[row, :length] = document.token_ids
        weights[row, :length] = document.weights
        positions[:, row, :length] = rope_positions(document.token_ids, image_id=image_id)
    return Batch(
        token_ids=torch.from_numpy(token_ids),
        weights=torch.from_numpy(weights),
        positions=torch.from_numpy(positions),
        images=image_arguments([flag for document in documents for flag in document.flags]),
    )


def rope_positions(token_ids: Sequence[int], *, image_id: int) -> np.ndarray[Any, Any]:
    """[3, T] positions: an image's tokens share their time and span a square."""
    side = _GRID // MERGE
    columns = np.zeros((3, len(token_ids)), np.int64)
    position = place = 0
    while place < len(token_ids):
        if token_ids[place] == image_id:
            rows, cols = np.divmod(np.arange(side * side), side)
            columns[:, place : place + side * side] = position + np.stack([0 * rows, rows, cols])
            place, position = place + side * side, position + side
        else:
            columns[:, place] = position
            place, position = place + 1, position + 1
    return columns


def image_arguments(flags: Sequence[Flag]) -> dict[str, torch.Tensor]:
    if not flags:
        return {}
    pixels = torch.from_numpy(np.stack([draw(flag) for flag in flags])).float() / 127.5 - 1
    side = _GRID // MERGE
    tiles = pixels.view(len(flags), side, MERGE, PATCH, side, MERGE, PATCH, 3)
    patches = tiles.permute(0, 1, 4, 2, 5, 7, 3, 6).unsqueeze(6)
    patches = patches.expand(*patches.shape[:6], _FRAMES, PATCH, PATCH)
    return {
        "pixel_values": patches.reshape(len(flags) * _GRID * _GRID, -1),
        "image_grid_thw": torch.tensor([[1, _GRID, _GRID]] * len(flags)),
    }
