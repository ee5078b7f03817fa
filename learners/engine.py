"""DeepSpeed with parameters' masters and optimizer state in host memory.

In: a module and `LearnerConfig`. Out: an engine with forward, backward, step, full weights and
resumable state by parameter name. `device: cpu` runs the whole step on the CPU; `device: cuda`
computes forward and backward on a GPU of the learner's own, which holds weights and gradients, and
the step on the CPU (ZeRO-Offload, arXiv 2101.06840; with stage 3 weights and gradients are in host
memory too). Fails with LearnerError on a gradient that is not finite. With several learners
(learners/peers.py) gradients are added up and optimizer state is shared among them
(learners/masters.py).
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from core.errors import ConfigError, LearnerError
from core.sections.learner import LearnerConfig
from learners.host_memory import unmap_large_tensors
from learners.masters import MOMENTS, Masters, OwnMasters, ZeroMasters
from learners.peers import num_learners, rank

logger = logging.getLogger(__name__)

BUCKET_ELEMENTS = 2**24
"""Gradients that DeepSpeed lays end to end and adds up at once; by default it takes 2 GB for it."""


def deepspeed_config(config: LearnerConfig) -> dict[str, Any]:
    """Our few settings in DeepSpeed's terms. The caller decides when a step is due."""
    stage = zero_stage(config)
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": False,
        "reduce_bucket_size": BUCKET_ELEMENTS,
    }
    if config.device == "cuda":
        host = {"device": "cpu", "pin_memory": True}
        zero["offload_optimizer"] = host
        if stage == 3:
            zero["offload_param"] = host
    # Gradients of many packs are added up: in bfloat16 a small one beside a large one is lost.
    # Stage 1 cannot hold them in float32.
    sums = {"grad_accum_dtype": "fp32"} if stage >= 2 else {}
    return {
        "data_types": sums,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm if stage else 0.0,  # OwnMasters clips itself
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": zero,
        # torch's fused AdamW is as fast as DeepSpeed's own and needs no compiling.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def zero_stage(config: LearnerConfig) -> int:
    """`learner.zero_stage`, chosen where it is None; 0: no ZeRO."""
    if config.own_masters and num_learners() == 1:  # whatever the config says, peers must add up
        return 0
    precise = config.dtype == "bfloat16" and num_learners() == 1
    return config.zero_stage or (2 if precise else 1)


def warmup_lr(step: int, *, base: float, warmup_steps: int) -> float:
    """Linear from base / warmup_steps at step 0, constant from step warmup_steps - 1 on."""
    return base * min(1.0, (step + 1) / max(1, warmup_steps))


def cosine_lr(step: int, *, base: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0 at total_steps."""
    if step < warmup_steps:
        return warmup_lr(step, base=base, warmup_steps=warmup_steps)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return base * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class TrainEngine:
    """One learner process. A process may hold several engines, one after another."""

    def __init__(self, module: torch.nn.Module, *, config: LearnerConfig) -> None:
        if config.device == "cpu":
            unmap_large_tensors()
        deepspeed = _import_deepspeed(config.device)
        _join_process_group(deepspeed, config.device)
        optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._stage = zero_stage(config)
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(config)
        )
        self._gathered = deepspeed.zero.GatheredParameters
        self._masters: Masters = (
            ZeroMasters(self._engine, deepspeed.utils, stage=self._stage)
            if self._stage
            else OwnMasters(self._engine, max_grad_norm=config.max_grad_norm)
        )
        self.step_count = 0
        """Optimizer steps done."""

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    def forward(self, *inputs: Any) -> Any:
        return self._engine(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds to the gradients; they are kept until `step`. With ZeRO every pass has to go through
        every trained parameter (learners/model.py sees to it).

        DeepSpeed divides the sum over learners by their number, but a loss of ours is divided by
        what the whole batch holds, here or in `step`.
        """
        self._engine.backward(loss * num_learners())

    def step(self, *, lr: float, divide_by: float = 1.0) -> float:
        """Add up over learners, divide, clip, update, clear; the gradient norm before clipping.
        Raises LearnerError.

        `divide_by`: what is known only once every gradient is there, e.g. how many tokens they are
        a sum over.
        """
        norm = self._masters.step(lr=lr, divide_by=divide_by)
        if not math.isfinite(norm):
            raise LearnerError(
                f"the gradient of optimizer step {self.step_count} is not finite; nothing changed",
                retryable=False,
            )
        self.step_count += 1
        return norm

    @contextmanager
    def full_weights(self, *, write: bool = False) -> Iterator[torch.nn.Module]:
        """The module with every parameter whole (ZeRO-3 keeps only shards between steps)."""
        module: torch.nn.Module = self._engine.module
        sharded = self._stage == 3
        with self._gathered(
            list(module.parameters()), modifier_rank=0 if write else None, enabled=sharded
        ):
            yield module

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Masters and moments, float32, by "kind/parameter", and the RNG: copies of them.

        All learners have to be asked, for each has a share; the first one alone keeps what comes.
        """
        tensors = {"rng": torch.get_rng_state()}
        for name, parameter in self._trainable():
            parts = self._masters.copy(parameter, moments=self.step_count > 0)
            if rank() == 0:
                tensors |= {f"{kind}/{name}": tensor for kind, tensor in parts.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, torch.Tensor], *, step_count: int) -> None:
        """What `state_tensors` gave at that step. Raises ConfigError for the state of a learner
        that trains other parameters, and changes nothing then."""
        kinds = ("master", *MOMENTS) if step_count else ("master",)
        self._refuse_another(tensors, kinds)
        self.step_count = step_count
        self._masters.reset(step_count=step_count)
        for name, parameter in self._trainable():
            self._masters.set(parameter, {kind: tensors[f"{kind}/{name}"] for kind in kinds})
        torch.set_rng_state(tensors["rng"])

    def _refuse_another(self, tensors: Mapping[str, torch.Tensor], kinds: Sequence[str]) -> None:
        theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "rng"}
        ours = {
            f"{kind}/{name}": tuple(getattr(parameter, "ds_shape", parameter.shape))  # of a shard
            for name, parameter in self._trainable()
            for kind in kinds
        }
        for name in sorted(theirs.keys() | ours.keys()):
            there, here = theirs.get(name, "nothing"), ours.get(name, "nothing")
            if there != here:
                raise ConfigError(
                    f"the checkpoint has {there} as {name}, this learner {here}: it was made with "
                    "another policy, or with another learner.freeze_vision, lora_rank or "
                    "lora_targets; resume with those of its run"
                )

    def close(self) -> None:
        self._engine.destroy()

    def _trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                yield name, parameter


def _import_deepspeed(device: str) -> Any:
    """DeepSpeed reads its accelerator from the environment when it is first imported."""
    os.environ.setdefault("DS_ACCELERATOR", device)  # noqa: TID251
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


def _join_process_group(deepspeed: Any, device: str) -> None:
    """The group that is there already (RLlib makes one), else a group of this process alone."""
    backend = "gloo" if device == "cpu" else "nccl"
    if not torch.distributed.is_initialized():
        # Another engine of this process (vLLM, when it ends) may have taken away the group that
        # DeepSpeed remembers.
        deepspeed.utils.groups._release_process_group_references()
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    for name, value in (("RANK", rank()), ("LOCAL_RANK", 0), ("WORLD_SIZE", num_learners())):
        os.environ.setdefault(name, str(value))  # noqa: TID251  DeepSpeed insists on them
    # An op that adds up over shared memory would be compiled first; gloo does it over loopback.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend=backend, auto_mpi_discovery=False, dist_init_required=False
    )
