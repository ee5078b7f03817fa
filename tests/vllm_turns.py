"""What tests of an engine on vLLM ask it, and how far its answer is from transformers."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from core.protocols import Generated, GenerateRequest
from core.records import Completion, RolloutId, Sampling, SeenImage, WeightUpdate
from learners.publish import WeightPublisher
from tests.hf_policy import HfPolicy

TOLERANCE = 1e-4
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
TASK = (
    f"<|im_start|>user\nDraw the flag of the country where the Melka festival is held.{ASSISTANT}"
)


def make_png(seed: int, *, size: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    return data.getvalue()


def make_request(
    oracle: HfPolicy,
    engine_ids: Sequence[int],
    images: Sequence[SeenImage] = (),
    *,
    seed: int = 1,
    index: int = 0,
    max_tokens: int = 40,
    temperature: float = 0.7,
    top_p: float = 0.95,
) -> GenerateRequest:
    return GenerateRequest(
        rollout_id=RolloutId(ordinal=3, index=index),
        engine_ids=tuple(engine_ids),
        images=tuple(images),
        sampling=Sampling(
            temperature=temperature, top_p=top_p, banned_ids=oracle.banned_ids, seed=seed
        ),
        max_tokens=max_tokens,
    )


def difference(
    oracle: HfPolicy, generated: Generated, pngs: Sequence[bytes] = (), **options: Any
) -> np.ndarray:
    """[T] |vLLM - transformers| of the sampled tokens' log pi."""
    completion = generated.completion
    expected = oracle.logprobs(
        generated.prompt_ids,
        completion.token_ids,
        pngs=pngs,
        temperature=completion.sampling.temperature,
        banned_ids=completion.sampling.banned_ids,
        **options,
    )
    return np.abs(np.array(completion.logprobs) - expected)


def head(completion: Completion, size: int) -> Completion:
    return dataclasses.replace(
        completion, token_ids=completion.token_ids[:size], logprobs=completion.logprobs[:size]
    )


def pack(weights: dict[str, Any], *, version: int) -> tuple[WeightUpdate, tuple[Any, ...]]:
    return WeightPublisher(dtype="float32").publish(weights, version=version)
