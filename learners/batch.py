"""Training sequences -> packs of tensors without padding.

In: `TrainingSample`s that learners/packing.py put together. Out: `MicroBatch`es, built one at a
time so that the pixels of a whole step are never in memory together. Fails with FidelityError when
a sequence's images, placeholders or sampled tokens are not what the rollout says they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from core.errors import FidelityError
from core.protocols import ImageStore
from core.records import Sampling, TrainingSample
from envs.chat import ChatFormat
from learners.attention import Segment
from learners.packing import shared_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Sequences of T tokens in all, end to end, of which N were sampled by the policy."""

    input_ids: torch.Tensor
    """[1, T]"""
    segments: tuple[Segment, ...]
    """In order, and covering [0, T)."""
    is_image: torch.Tensor
    """[1, T] int32: 1 on image placeholders, from which the model derives its 3-D positions."""
    pixel_values: torch.Tensor | None
    """[num_patches, patch_dim] float32: each different image once."""
    image_grid_thw: torch.Tensor | None
    """[num_different, 3]"""
    shown: torch.Tensor
    """[num_images] number of the image that stands at each place, in the order of placeholders."""
    predicting: torch.Tensor
    """[N] position that predicts each sampled token; those of one prompt may be the same."""
    sequences: torch.Tensor
    """[N] number of the token's sequence in this batch."""
    targets: torch.Tensor
    """[N] the sampled tokens."""
    rollout_logprobs: torch.Tensor
    advantages: torch.Tensor
    policy_versions: torch.Tensor
    after_image: torch.Tensor
    """[N] bool: an image stands before the token."""
    temperature: float
    banned_ids: tuple[int, ...]

    @property
    def num_images(self) -> int:
        return len(self.shown)

    @property
    def num_encoded(self) -> int:
        return 0 if self.image_grid_thw is None else len(self.image_grid_thw)

    def to(self, device: torch.device) -> "MicroBatch":
        tensors = {
            own.name: value.to(device)
            for own in fields(self)
            if isinstance(value := getattr(self, own.name), torch.Tensor)
        }
        return replace(self, **tensors)


def build_micro_batch(
    samples: Sequence[TrainingSample],
    *,
    chat: ChatFormat,
    images: ImageStore,
    share_prefix: bool = False,
) -> MicroBatch:
    """Tensors of these samples, in order. Raises FidelityError.

    share_prefix: the first prompt of a group's members stands once, before the first of them.
    """
    for sample in samples:
        _check_sample(sample, chat=chat)
    sampling = _common_sampling(samples)
    layout = _lay_out(samples, shared_prompts(samples) if share_prefix else {})
    places = np.concatenate(
        [_places(n, sample, layout.starts[n]) for n, sample in enumerate(samples)], axis=1
    )
    seen = [image for sample in samples for image in sample.images]
    numbers = {image: number for number, image in enumerate(dict.fromkeys(seen))}
    vision = chat.vision_inputs(list(numbers), images) if seen else None
    input_ids = torch.tensor([layout.token_ids])
    return MicroBatch(
        input_ids=input_ids,
        segments=tuple(layout.segments),
        is_image=(input_ids == chat.image_id).int(),
        pixel_values=torch.from_numpy(vision.pixel_values) if vision else None,
        image_grid_thw=torch.from_numpy(vision.grid_thw) if vision else None,
        shown=torch.tensor([numbers[image] for image in seen], dtype=torch.int64),
        predicting=torch.from_numpy(places[1]),
        sequences=torch.from_numpy(places[0]),
        targets=_sampled(samples, [s.token_ids for s in samples], torch.int64),
        rollout_logprobs=_sampled(samples, [s.logprobs for s in samples], torch.float32),
        advantages=_sampled(samples, [s.advantages for s in samples], torch.float32),
        policy_versions=_sampled(samples, [s.policy_versions for s in samples], torch.int64),
        after_image=_sampled(samples, [_after_image(s, chat) for s in samples], torch.bool),
        temperature=sampling.temperature,
        banned_ids=sampling.banned_ids,
    )


@dataclass(slots=True, kw_only=True)
class _Layout:
    token_ids: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    starts: list[tuple[int, int, int]] = field(default_factory=list)
    """Per sample: shared tokens, where they stand, and where its own begin."""


def _lay_out(samples: Sequence[TrainingSample], shared: Mapping[int, int]) -> _Layout:
    layout = _Layout()
    prefixes: dict[int, int] = {}

    def append(token_ids: Sequence[int], **properties: Any) -> int:
        start = len(layout.token_ids)
        layout.token_ids += token_ids
        end = len(layout.token_ids)
        layout.segments.append(Segment(start=start, end=end, **properties))
        return start

    for sample in samples:
        ordinal = sample.rollout_id.ordinal
        length = shared.get(ordinal, 0)
        if length and ordinal not in prefixes:
            prefixes[ordinal] = append(sample.token_ids[:length])
        prefix = prefixes.get(ordinal, 0)
        start = append(
            sample.token_ids[length:],
            prefix=(prefix, prefix + length),
            num_images=len(sample.images),
        )
        layout.starts.append((length, prefix, start))
    return layout


def _places(number: int, sample: TrainingSample, starts: tuple[int, int, int]) -> np.ndarray:
    """[2, n] int64: sequence, and position in the pack that predicts, of its sampled tokens."""
    length, prefix, start = starts
    before = np.flatnonzero(sample.loss_mask) - 1
    predicting = np.where(before < length, prefix + before, start + before - length)
    return np.stack([np.full_like(predicting, number), predicting])


def _after_image(sample: TrainingSample, chat: ChatFormat) -> np.ndarray:
    """[L] bool"""
    seen: np.ndarray = (np.asarray(sample.token_ids) == chat.image_id).cumsum()
    return seen > 0


def _sampled(
    samples: Sequence[TrainingSample], rows: Sequence[ArrayLike], dtype: torch.dtype
) -> torch.Tensor:
    """[N]: what stands at the sampled positions, sample after sample."""
    chosen = [
        np.asarray(row)[np.asarray(sample.loss_mask, dtype=bool)]
        for sample, row in zip(samples, rows, strict=True)
    ]
    return torch.from_numpy(np.concatenate(chosen)).to(dtype)


def _check_sample(sample: TrainingSample, *, chat: ChatFormat) -> None:
    where = f"rollout={sample.rollout_id}"
    runs = groupby(sample.token_ids, key=lambda token: token == chat.image_id)
    places = [sum(1 for _ in run) for is_image, run in runs if is_image]
    expected = [image.num_tokens for image in sample.images]
    if places != expected:
        raise FidelityError(
            f"{where}: places for images of {places} tokens, but they have {expected}"
        )
    banned = set(sample.sampling.banned_ids)
    pairs = zip(sample.token_ids, sample.loss_mask, strict=True)
    if any(mask and token in banned for token, mask in pairs):
        raise FidelityError(f"{where}: a banned token stands where the policy sampled")
    if sample.loss_mask[0]:
        raise FidelityError(f"{where}: its first token has no context to be predicted from")
    if not any(sample.loss_mask):
        raise FidelityError(f"{where}: the policy sampled none of its tokens")


def _common_sampling(samples: Sequence[TrainingSample]) -> Sampling:
    kinds = {replace(sample.sampling, seed=0, top_p=1.0) for sample in samples}
    if len(kinds) != 1:
        raise FidelityError(f"samples of one batch were drawn in {len(kinds)} ways: {kinds}")
    return kinds.pop()
