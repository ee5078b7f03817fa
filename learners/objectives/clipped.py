"""The clipped surrogate of GRPO (arXiv 2402.03300), Dr.GRPO (2503.20783) and DAPO (2503.14476).

    r_t = exp(p_t - a_t)        J_t = min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t)

Two bounds that differ are DAPO's "clip-higher": rare tokens may rise further than they may fall.
"""

import torch

from learners.objectives.surrogate import Surrogate


def clipped(
    logprobs: torch.Tensor,
    anchor: torch.Tensor,
    advantages: torch.Tensor,
    sequences: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    return clip_ratio((logprobs - anchor).exp(), advantages, clip_low=clip_low, clip_high=clip_high)


def clip_ratio(
    ratio: torch.Tensor, advantages: torch.Tensor, *, clip_low: float, clip_high: float
) -> Surrogate:
    """J of the formula above, for any ratio."""
    plain = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return Surrogate(value=torch.minimum(plain, bounded), clipped=bounded.detach() < plain.detach())
