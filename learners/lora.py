"""Low-rank adapters (LoRA, arXiv 2106.09685), as both ends of the wire see them.

    W = W_0 + scale B A      A [rank, in], B [out, rank], scale = alpha / rank

The learner trains A and B alone (learners/model.py) and sends them, in float32; a rollout worker
has W_0 from `policy.path` and adds. Both ends and the checkpoint add with `merged`; the sums agree
to rounding, not to the bit, since a matrix product may round differently from machine to machine.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from transformers import Qwen3VLForConditionalGeneration

A, B = ".lora_A", ".lora_B"
"""Ends of the factors' names; before them stands the name of the weight's module."""

Tensors = Mapping[str, torch.Tensor]


def merged(base: Tensors, factors: Tensors, *, scale: float) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of `base`, with the product of its factors added in float32."""
    for name, weight in base.items():
        module = name.removesuffix(".weight")
        if module + A in factors:
            added = factors[module + B].float() @ factors[module + A].float()
            yield name, (weight.float() + scale * added).to(weight.dtype)
        else:
            yield name, weight


class BaseWeights:
    """The policy's first weights, in host memory, read when adapters are first added to them."""

    def __init__(self, path: str, *, dtype: torch.dtype) -> None:
        self._path = path
        self._dtype = dtype
        self._weights: Tensors | None = None

    def add(
        self, factors: Iterable[tuple[str, torch.Tensor]], *, scale: float
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Every weight under its name in a Hugging Face state dict, a tied head among them."""
        if self._weights is None:
            model = Qwen3VLForConditionalGeneration.from_pretrained(self._path, dtype=self._dtype)
            self._weights = model.state_dict()
        return merged(self._weights, dict(factors), scale=scale)
