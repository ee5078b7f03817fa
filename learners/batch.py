"""Training sequences -> right-padded micro-batches of tensors under a token budget.

In: `TrainingSample`s. Out: plans (which samples go together) and `MicroBatch`es, built one at a
time so that the pixels of a whole step are never in memory together. Fails with FidelityError when
a sequence's images, placeholders or sampled tokens are not what the rollout says they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from core.errors import FidelityError
from core.protocols import ImageStore
from core.records import Sampling, TrainingSample
from envs.chat import ChatFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """B sequences padded to T tokens, of which N were sampled by the policy."""

    input_ids: torch.Tensor
    """[B, T]"""
    attention_mask: torch.Tensor
    """[B, T], 0 on padding."""
    mm_token_type_ids: torch.Tensor
    """[B, T], 1 on image placeholders; the model derives its 3-D positions from it."""
    pixel_values: torch.Tensor | None
    """[num_patches, patch_dim] float32, images in the order of their placeholders."""
    image_grid_thw: torch.Tensor | None
    """[num_images, 3]"""
    rows: torch.Tensor
    """[N] sequence of each sampled token."""
    columns: torch.Tensor
    """[N] position that predicts it: one before its own."""
    targets: torch.Tensor
    """[N] the sampled tokens."""
    rollout_logprobs: torch.Tensor
    advantages: torch.Tensor
    policy_versions: torch.Tensor
    after_image: torch.Tensor
    """[N] bool: an image stands before the token."""
    temperature: float
    banned_ids: tuple[int, ...]

    def to(self, device: torch.device) -> "MicroBatch":
        tensors = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **tensors)


def plan_micro_batches(
    samples: Sequence[TrainingSample], *, max_tokens: int
) -> list[list[TrainingSample]]:
    """Samples grouped longest first, each group's rows x longest <= max_tokens.

    Sorting by length keeps the padding small. A sample longer than the budget goes alone.
    """
    plans: list[list[TrainingSample]] = []
    for sample in sorted(samples, key=lambda s: (-len(s.token_ids), s.rollout_id)):
        if plans and (len(plans[-1]) + 1) * len(plans[-1][0].token_ids) <= max_tokens:
            plans[-1].append(sample)
        else:
            plans.append([sample])
    return plans


def build_micro_batch(
    samples: Sequence[TrainingSample], *, chat: ChatFormat, images: ImageStore
) -> MicroBatch:
    """Tensors of these samples, in order. Raises FidelityError."""
    for sample in samples:
        _check_sample(sample, chat=chat)
    sampling = _common_sampling(samples)
    input_ids = _padded([s.token_ids for s in samples], fill=chat.stop_id)
    is_image = input_ids == chat.image_id
    sampled = _padded([s.loss_mask for s in samples], fill=0).bool()
    rows, positions = sampled.nonzero(as_tuple=True)
    seen = [image for sample in samples for image in sample.images]
    vision = chat.vision_inputs(seen, images) if seen else None
    return MicroBatch(
        input_ids=input_ids,
        attention_mask=_padded([(1,) * len(s.token_ids) for s in samples], fill=0),
        mm_token_type_ids=is_image.int(),
        pixel_values=torch.from_numpy(vision.pixel_values) if vision else None,
        image_grid_thw=torch.from_numpy(vision.grid_thw) if vision else None,
        rows=rows,
        columns=positions - 1,
        targets=input_ids[sampled],
        rollout_logprobs=_sampled_values([s.logprobs for s in samples], sampled),
        advantages=_sampled_values([s.advantages for s in samples], sampled),
        policy_versions=_padded([s.policy_versions for s in samples], fill=-1)[sampled],
        after_image=(is_image.cumsum(dim=1) > 0)[sampled],
        temperature=sampling.temperature,
        banned_ids=sampling.banned_ids,
    )


def _check_sample(sample: TrainingSample, *, chat: ChatFormat) -> None:
    where = f"rollout={sample.rollout_id}"
    placeholders = sample.token_ids.count(chat.image_id)
    expected = sum(image.num_tokens for image in sample.images)
    if placeholders != expected:
        raise FidelityError(f"{where}: {placeholders} image tokens, but its images have {expected}")
    banned = set(sample.sampling.banned_ids)
    pairs = zip(sample.token_ids, sample.loss_mask, strict=True)
    if any(mask and token in banned for token, mask in pairs):
        raise FidelityError(f"{where}: a banned token stands where the policy sampled")
    if sample.loss_mask[0]:
        raise FidelityError(f"{where}: its first token has no context to be predicted from")


def _common_sampling(samples: Sequence[TrainingSample]) -> Sampling:
    kinds = {replace(sample.sampling, seed=0, top_p=1.0) for sample in samples}
    if len(kinds) != 1:
        raise FidelityError(f"samples of one batch were drawn in {len(kinds)} ways: {kinds}")
    return kinds.pop()


def _padded(rows: Sequence[Sequence[int]], *, fill: int) -> torch.Tensor:
    """[B, T] int64."""
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)


def _sampled_values(rows: Sequence[Sequence[float]], sampled: torch.Tensor) -> torch.Tensor:
    """[N] float32: the values at the sampled positions, row by row."""
    table = np.zeros(tuple(sampled.shape), dtype=np.float32)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)[sampled]
