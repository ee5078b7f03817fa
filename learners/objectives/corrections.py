"""Weights for tokens that were not sampled by the policy being trained.

With l_t the rollout's log-prob and a_t the learner's own from before the update (the anchor):

    truncated  w_t = min(exp(a_t - l_t), cap): bounded variance for some bias
    masked     w_t = exp(a_t - l_t) inside a band, else 0 (IcePop): an outlier teaches nothing
    sequence   w_t = 0 for a whole sequence whose geometric mean exp(mean(a - l)) leaves its band

The first two exclude one another; the third multiplies with either. Together with a ratio that is
taken against a_t, they make the decoupled objective of arXiv 2110.00641.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from learners.objectives.surrogate import sequence_mean

Correction = Literal["none", "truncated", "masked"]
Band = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a correction did to N tokens; all [N], and no gradient in any."""

    weight: torch.Tensor
    capped: torch.Tensor
    """bool: the truncation decided the weight."""
    token_masked: torch.Tensor
    """bool: outside the band of tokens."""
    sequence_masked: torch.Tensor
    """bool: its sequence is outside the band of sequences."""


def correct(
    log_weight: torch.Tensor,
    sequences: torch.Tensor,
    *,
    kind: Correction,
    cap: float,
    token_band: Band,
    sequence_band: Band | None,
) -> Weights:
    """`log_weight` [N] is a - l, and 0 for a token that needs no correction."""
    weight = log_weight.exp()
    never = torch.zeros_like(log_weight, dtype=torch.bool)
    capped, token_masked, sequence_masked = never, never, never
    if kind == "truncated":
        capped = weight > cap
        weight = weight.clamp(max=cap)
    elif kind == "masked":
        token_masked = _outside(weight, token_band)
        weight = weight.masked_fill(token_masked, 0.0)
    else:
        weight = torch.ones_like(weight)
    if sequence_band is not None:
        sequence_masked = _outside(sequence_mean(log_weight, sequences).exp(), sequence_band)
        weight = weight.masked_fill(sequence_masked, 0.0)
    return Weights(
        weight=weight, capped=capped, token_masked=token_masked, sequence_masked=sequence_masked
    )


def _outside(values: torch.Tensor, band: Band) -> torch.Tensor:
    low, high = band
    return (values < low) | (values > high)
