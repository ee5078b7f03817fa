"""Batched attention equals PyTorch's own, for text with right padding and for images."""

import itertools

import torch
from torch.nn import functional

from learners.attention import causal_attention, image_attention


def _tensors(*shape: int, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def test_causal_attention_equals_sdpa_with_shared_key_heads() -> None:
    (query,) = _tensors(2, 4, 7, 8, count=1)
    key, value = _tensors(2, 2, 7, 8, count=2)
    mixed, _ = causal_attention(None, query, key, value, None, scaling=8**-0.5)
    expected = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(mixed, expected.transpose(1, 2))


def test_images_attend_only_to_themselves_whatever_their_sizes() -> None:
    query, key, value = _tensors(1, 2, 12, 8, count=3)
    for bounds in ([0, 4, 8, 12], [0, 2, 8, 12]):
        cu_seq_lens = torch.tensor(bounds)
        mixed, _ = image_attention(
            None, query, key, value, None, scaling=8**-0.5, cu_seq_lens_q=cu_seq_lens
        )
        pieces = [
            functional.scaled_dot_product_attention(
                query[:, :, a:b], key[:, :, a:b], value[:, :, a:b]
            )
            for a, b in itertools.pairwise(bounds)
        ]
        torch.testing.assert_close(mixed, torch.cat(pieces, dim=2).transpose(1, 2))
