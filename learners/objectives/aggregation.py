"""How the values of tokens become one number per optimizer step.

    token_mean                sum over all tokens / number of tokens            (DAPO)
    sequence_mean             mean over sequences of the mean over its tokens   (GRPO)
    sequence_mean_token_sum   mean over sequences of the sum over its tokens    (Gen-Searcher)

A token's share is `token_weights` / `normaliser`. The normaliser is counted over the whole
optimizer step, so that micro-batches of any composition add up to the same gradient.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from core.records import TrainingSample

Aggregation = Literal["token_mean", "sequence_mean", "sequence_mean_token_sum"]


def token_weights(sequences: torch.Tensor, *, mode: Aggregation) -> torch.Tensor:
    """[N] float32; `sequences` [N] numbers the sequence of every token, none cut in two."""
    if mode == "sequence_mean":
        return 1.0 / torch.bincount(sequences)[sequences].float()
    return torch.ones(len(sequences), device=sequences.device)


def normaliser(samples: Sequence[TrainingSample], *, mode: Aggregation) -> float:
    """What the weighted sum over an optimizer step's samples is divided by."""
    if mode == "token_mean":
        return float(sum(sum(sample.loss_mask) for sample in samples))
    return float(len(samples))
