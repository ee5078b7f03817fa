"""Causal attention over a pack: every segment sees itself and the prompt it continues, no more.

    lm.model(..., segments=batch.segments)     with attn_implementation PACKED on the text tower

One kernel call per segment costs the sum of squared lengths; a block-diagonal mask over the pack
would cost the square of the sum, and the memory for it. A segment that continues a shared prompt
computes the prompt's queries again and drops them: that is cheaper than a mask, and the numbers are
those of the whole sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

PACKED = "packed_sdpa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One piece [start, end) of a pack."""

    start: int
    end: int
    prefix: tuple[int, int] = (0, 0)
    """[start, end) of the shared prompt that it continues; empty: it starts a sequence."""
    num_images: int = 0
    """Images in the piece; a shared prompt has none."""

    @property
    def prefix_length(self) -> int:
        return self.prefix[1] - self.prefix[0]

    def take(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """Its whole sequence, the shared prompt first."""
        own = values.narrow(dim, self.start, self.end - self.start)
        if not self.prefix_length:
            return own
        return torch.cat([values.narrow(dim, self.prefix[0], self.prefix_length), own], dim=dim)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Sequence[Segment],
    scaling: float | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, T, D], key and value [1, kv_heads, T, D] -> [1, T, heads, D]."""
    pieces = []
    parts = [_sequences(tensor, segments) for tensor in (query, key, value)]
    for segment, q, k, v in zip(segments, *parts, strict=True):
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        # The kernel lays heads next to each other: in this order it is the only copy, or none.
        pieces.append(out.transpose(1, 2)[:, segment.prefix_length :])
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
    return whole.contiguous(), None


def _sequences(values: torch.Tensor, segments: Sequence[Segment]) -> Iterator[torch.Tensor]:
    """[1, heads, T, D] -> each segment's whole sequence, as `Segment.take` gives it. Cut up at
    once: of as many views, each one's gradient would be as large as the pack."""
    own = values.split([segment.end - segment.start for segment in segments], dim=2)
    by_start = {segment.start: piece for segment, piece in zip(segments, own, strict=True)}
    for segment, piece in zip(segments, own, strict=True):
        prompt = by_start[segment.prefix[0]] if segment.prefix_length else None
        yield piece if prompt is None else torch.cat([prompt, piece], dim=2)


def _no_mask(*unused: Any, **also_unused: Any) -> None:
    """What the segments say needs no mask."""


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
