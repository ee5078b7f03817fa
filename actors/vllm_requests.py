"""Our records <-> vLLM's: engine arguments, prompts, sampling parameters and outputs.

Pure translation, shared by every way to run vLLM. Prompts go in un-expanded (one placeholder per
image) with the images as pixels; vLLM gives the expanded ids back.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from actors.stats import EngineCounts
from core.config import Config
from core.errors import InfraError
from core.protocols import Generated, GenerateRequest, ImageStore
from core.records import Completion, FinishReason, Sampling, SeenImage
from envs.images import decode_rgb

BLOCK_SIZE = 32
"""Tokens per block of the KV cache; small, because prefixes are reused block by block."""


def engine_args(config: Config) -> AsyncEngineArgs:
    """One engine of this run."""
    rollout = config.rollout
    on_cpu = rollout.num_gpus_per_worker == 0
    return AsyncEngineArgs(
        model=config.policy.path,
        dtype=config.policy.dtype,
        seed=config.run.seed,
        tensor_parallel_size=rollout.tensor_parallel,
        max_model_len=rollout.max_context,
        max_num_seqs=rollout.max_sequences,
        kv_cache_memory_bytes=int(rollout.kv_cache_gib * 1024**3 / rollout.tensor_parallel),
        block_size=BLOCK_SIZE,
        enable_prefix_caching=True,
        limit_mm_per_prompt={
            "image": rollout.max_turns * config.tools.max_images_per_search,
            "video": 0,
        },
        # Eager on a laptop: compiling costs more than it gives to a tiny model.
        enforce_eager=on_cpu,
        # A prompt that is computed in parts rewinds its request's generator, which a CPU
        # generator cannot do: the engine dies ("CPU Generator does not use offset").
        enable_chunked_prefill=not on_cpu,
        # A weight update falls between two steps; with a step in flight its tokens would be
        # labelled with the version that did not sample them.
        async_scheduling=False,
        # BeforeTruncation replaces what this mode would return; it is the cheapest of vLLM's.
        logprobs_mode="raw_logits",
        worker_extension_cls="actors.vllm_worker.PolicyWorker",
        generation_config="vllm",
        disable_log_stats=True,
    )


def load_images(images: Sequence[SeenImage], store: ImageStore) -> list[Image.Image]:
    """Decoded as the processor decodes them, in order. Raises InfraError when bytes are missing."""
    return [decode_rgb(store.get(image.ref)) for image in images]


def cache_salt(policy_version: int, counts: EngineCounts) -> str:
    """Keeps the prefix caches of different weights apart, also when a version is made again."""
    return f"{policy_version}-{counts.updates}"


def build_prompt(
    request: GenerateRequest, pixels: Sequence[Image.Image], *, salt: str
) -> dict[str, Any]:
    """Un-expanded ids and pixels, as vLLM wants them."""
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.engine_ids), "cache_salt": salt}
    if pixels:
        prompt["multi_modal_data"] = {"image": list(pixels)}
        # Naming images by content spares vLLM hashing the pixels.
        prompt["multi_modal_uuids"] = {"image": [image.ref.sha256 for image in request.images]}
    return prompt


def build_sampling(
    sampling: Sampling, *, max_tokens: int, stop_ids: Sequence[int]
) -> SamplingParams:
    """A ban is a bias of minus infinity: exact, and applied to all requests at once."""
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        max_tokens=max_tokens,
        logit_bias={token: float("-inf") for token in sampling.banned_ids} or None,
        stop_token_ids=list(stop_ids),
        ignore_eos=True,  # the stop ids are named; a model's own defaults must not add others
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def to_generated(request: GenerateRequest, output: RequestOutput) -> Generated:
    """Raises InfraError for an output that is no completion."""
    sampled = output.outputs[0]
    token_ids = tuple(sampled.token_ids)
    if sampled.finish_reason not in set(FinishReason):
        raise InfraError(f"rollout {request.rollout_id}: vLLM ended with {sampled.finish_reason!r}")
    completion = Completion(
        token_ids=token_ids,
        logprobs=tuple(sampled.logprobs.logprobs) if token_ids else (),
        finish_reason=FinishReason(sampled.finish_reason),
        sampling=request.sampling,
        policy_versions=tuple(
            (int(span.version), span.start, span.end) for span in sampled.weight_versions or ()
        ),
    )
    return Generated(prompt_ids=tuple(output.prompt_token_ids or ()), completion=completion)


def count_request(counts: EngineCounts, output: RequestOutput, *, seconds: float) -> None:
    counts.add_request(
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
        sampled_tokens=len(output.outputs[0].token_ids),
        seconds=seconds,
    )
