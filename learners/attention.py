"""Attention for training small models on a CPU: short right-padded rows, many small images.

PyTorch's CPU flash kernel is slow on short sequences, and transformers runs the vision tower's
attention once per image. Plain batched matrix products are 1.6 times faster over a whole training
step of the nano policy (docs/performance.md). Exact, not approximate: only the order of summation
differs. Rows must be padded on the right, where causal attention never looks, so no mask is taken.
"""

from functools import lru_cache
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

TEXT = "batched_causal"
VISION = "batched_images_flash"
"""transformers hands image boundaries only to attention whose name contains "flash"."""


def use_batched_attention(model: Any) -> None:
    """Switch a Qwen3-VL model to both kinds; text rows must be padded on the right."""
    model.model.language_model.config._attn_implementation = TEXT
    model.model.visual.config._attn_implementation = VISION


def causal_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [B, H, T, D], key and value [B, KV, T, D] -> [B, T, H, D]."""
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    scores = (query @ key.transpose(-1, -2)).float() * scaling + _causal_bias(query.shape[2])
    mixed = torch.softmax(scores, dim=-1).to(value.dtype) @ value
    return mixed.transpose(1, 2).contiguous(), None


def image_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """[1, H, N, D] patches of several images -> [1, N, H, D]; images of one size go together."""
    lengths = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    heads, patches, width = query.shape[1:]
    if len(set(lengths)) != 1:
        split = [torch.split(part, lengths, dim=2) for part in (query, key, value)]
        mixed = [_attend(q, k, v, scaling) for q, k, v in zip(*split, strict=True)]
        return torch.cat(mixed, dim=2).transpose(1, 2), None
    shape = (heads, len(lengths), lengths[0], width)
    q, k, v = (part.reshape(shape).transpose(0, 1) for part in (query, key, value))
    together = _attend(q, k, v, scaling)
    return together.transpose(1, 2).reshape(1, patches, heads, width), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    scores = (query @ key.transpose(-1, -2)).float() * scaling
    return torch.softmax(scores, dim=-1).to(value.dtype) @ value


@lru_cache(maxsize=64)
def _causal_bias(length: int) -> torch.Tensor:
    """[T, T]: 0 where a row may look, -inf where it may not."""
    return torch.full((length, length), float("-inf")).triu(1)


AttentionInterface.register(TEXT, causal_attention)
AttentionInterface.register(VISION, image_attention)
AttentionMaskInterface.register(TEXT, lambda *_, **__: None)
