"""Group sequence policy optimisation (arXiv 2507.18071): one ratio for the whole sequence.

    s = exp(mean over the sequence of (p_t - a_t))
    J_t = min(s A_t, clip(s, 1 - clip_low, 1 + clip_high) A_t)

A sequence is clipped whole or not at all. s stays near 1, so the bounds are far tighter than those
of a token's ratio (the paper: 3e-4 and 4e-4), and than the rounding between a bfloat16 engine and
the learner: `learner.correct_on_policy` takes the ratio to the learner's own log-probs.
"""

import torch

from learners.objectives.clipped import clip_ratio
from learners.objectives.surrogate import Surrogate, sequence_mean


def gspo(
    logprobs: torch.Tensor,
    anchor: torch.Tensor,
    advantages: torch.Tensor,
    sequences: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    ratio = sequence_mean(logprobs - anchor, sequences).exp()
    return clip_ratio(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
