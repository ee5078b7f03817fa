"""Three estimates of KL(policy || reference) per token (http://joschu.net/blog/kl-approx.html).

With d = log policy - log reference, on tokens that the policy sampled:

    k1 = d                    unbiased; as a loss its expected gradient is zero, so it only meters
    k2 = d^2 / 2              biased value, but its gradient is that of the true KL
    k3 = exp(-d) - 1 + d      unbiased and never negative; GRPO's own choice
"""

from typing import Literal

import torch

Estimator = Literal["k1", "k2", "k3"]


def kl(logprobs: torch.Tensor, reference: torch.Tensor, *, estimator: Estimator) -> torch.Tensor:
    """[N], [N] -> [N]"""
    difference = logprobs - reference
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return (-difference).exp() - 1 + difference
