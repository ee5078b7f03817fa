"""What gensearcher adds to a vLLM worker, in the process that holds the model.

vLLM mixes `PolicyWorker` into its own worker class (`worker_extension_cls`); the engine calls it
through `collective_rpc`, so one device and tensor parallel share this code. Two things:

- log-probabilities over the whole vocabulary, taken just before top-p cuts it
  (docs/decisions/0001-rollout-logprobs.md);
- new weights, layer by layer, under requests that go on running.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from vllm.config import set_current_vllm_config
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from core.records import TensorSpec
from learners.flat import view


class BeforeTruncation(torch.nn.Module):
    """Stands before vLLM's top-p sampler and reports what top-p is about to cut off.

    The logits that come in are already divided by the temperature and hold -inf at banned ids,
    so their log-softmax is log pi as the learner computes it. vLLM gathers the sampled token's
    entry on the device; nothing of the size of the vocabulary is copied out.
    """

    def __init__(self, sampler: torch.nn.Module) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(
        self, logits: torch.Tensor, generators: dict[int, torch.Generator], k: Any, p: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[num_requests, vocabulary] logits to (sampled ids [num_requests], log pi like logits)."""
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        sampled, _ = self.sampler(logits, generators, k, p)
        return sampled, logprobs


class PolicyWorker:
    """Mixed into vLLM's worker class; names must not clash with the worker's own."""

    model_runner: Any
    vllm_config: Any

    def report_whole_logprobs(self) -> None:
        """Call once, right after the engine has started."""
        sampler = self.model_runner.sampler
        sampler.topk_topp_sampler = BeforeTruncation(sampler.topk_topp_sampler)

    def load_policy(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace every weight. The caller resets the engine's encoder cache before the next step.

        `weights` has the names of a Hugging Face state dict. Raises ValueError when some weight
        of the model is not among them: vLLM itself would go on with the old one.
        """
        model = self.model_runner.get_model()
        needed = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        # The CPU kernels hold repacked weights, so a plain load_weights() cannot be used.
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)
            loaded = model.load_weights(iter(weights))
            finalize_layerwise_reload(model, self.vllm_config.model_config)
        if missing := sorted(needed - loaded):
            raise ValueError(f"the weight update lacks {missing[0]} ({len(missing)} in all)")

    def load_policy_file(self, path: str, manifest: Sequence[dict[str, Any]]) -> None:
        """The same from a flat file, which every rank maps; `manifest` is that of a WeightUpdate
        as JSON, which is what crosses vLLM's processes."""
        specs = [TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in manifest]
        flat = np.memmap(path, dtype=np.uint8, mode="r")
        self.load_policy((spec.name, view(flat, spec, start=0)) for spec in specs)
