"""Clipped importance-sampling weights (CISPO, arXiv 2506.13585): REINFORCE with a bounded weight.

    J_t = stop_gradient(min(exp(p_t - a_t), 1 + clip_high)) A_t p_t

No token loses its gradient, however far it moved. There is no lower bound, as in the paper, so
`clip_low` is not used.
"""

import torch

from learners.objectives.surrogate import Surrogate


def cispo(
    logprobs: torch.Tensor,
    anchor: torch.Tensor,
    advantages: torch.Tensor,
    sequences: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    ratio = (logprobs.detach() - anchor).exp()
    return Surrogate(
        value=ratio.clamp(max=1 + clip_high) * advantages * logprobs,
        clipped=ratio > 1 + clip_high,
    )
