"""How far the learner's log-probs lie from those that the rollout recorded, on the same tokens.

In: samples of a rollout and the policy with the weights that sampled them. Out: a `Mismatch`. The
control asks the same with every pixel blanked: if it made no difference, agreement after an image
would prove nothing. Fails with FidelityError when the samples are not what the rollout saw.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from core.protocols import ImageStore
from core.records import TrainingSample
from envs.chat import ChatFormat
from learners.batch import MicroBatch, build_micro_batch
from learners.packing import plan_packs

Score = Callable[[MicroBatch], tuple[torch.Tensor, torch.Tensor]]
"""Log-probs and entropies of a micro-batch's sampled tokens, as `PolicyModel` gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """|learner - rollout| of log-probs, in nats; 0.0 where there are no tokens."""

    num_tokens: int
    mean: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    text: Difference
    """Tokens before any image."""
    after_image: Difference
    blanked: Difference
    """The tokens after an image again, when the learner is shown pixels that are all zero."""


def measure(
    score: Score,
    samples: Sequence[TrainingSample],
    *,
    chat: ChatFormat,
    images: ImageStore,
    max_tokens: int,
    device: torch.device,
) -> Mismatch:
    """Packed as in training, `max_tokens` at a time. Raises FidelityError."""
    seen, blanked, after_image = [], [], []
    with torch.no_grad():
        for members in plan_packs(samples, max_tokens=max_tokens, share_prefix=True):
            batch = build_micro_batch(members, chat=chat, images=images, share_prefix=True)
            batch = batch.to(device)
            seen.append((score(batch)[0] - batch.rollout_logprobs).abs())
            blanked.append((score(_blank(batch))[0] - batch.rollout_logprobs).abs())
            after_image.append(batch.after_image)
    mask = torch.cat(after_image)
    difference = torch.cat(seen)
    return Mismatch(
        text=_summary(difference[~mask]),
        after_image=_summary(difference[mask]),
        blanked=_summary(torch.cat(blanked)[mask]),
    )


def _blank(batch: MicroBatch) -> MicroBatch:
    if batch.pixel_values is None:
        return batch
    return replace(batch, pixel_values=torch.zeros_like(batch.pixel_values))


def _summary(difference: torch.Tensor) -> Difference:
    if not len(difference):
        return Difference(num_tokens=0, mean=0.0, max=0.0)
    return Difference(
        num_tokens=len(difference),
        mean=difference.double().mean().item(),
        max=difference.max().item(),
    )
