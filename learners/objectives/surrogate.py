"""What an objective is, and the mean over a sequence that several of them take."""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """What an objective makes of N tokens; both [N]."""

    value: torch.Tensor
    """To be maximised; its gradient is the objective's."""
    clipped: torch.Tensor
    """bool: the bound decided the value."""


class Objective(Protocol):
    """A surrogate of N tokens; `anchor` are the log-probs that the ratio is taken against."""

    def __call__(
        self,
        logprobs: torch.Tensor,
        anchor: torch.Tensor,
        advantages: torch.Tensor,
        sequences: torch.Tensor,
        *,
        clip_low: float,
        clip_high: float,
    ) -> Surrogate: ...


def sequence_mean(values: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
    """[N] -> [N]: every token gets the mean over its sequence; `sequences` [N] numbers them."""
    size = int(sequences.max()) + 1 if len(sequences) else 0
    sums = values.new_zeros(size).index_add(0, sequences, values)
    counts = torch.bincount(sequences, minlength=size)
    return (sums / counts.clamp(min=1))[sequences]
