"""DeepSpeed with parameters' masters, gradients and optimizer state in host memory.

In: a module and `LearnerConfig`. Out: an engine with forward, backward, step, full weights and
resumable state by parameter name. `device: cpu` runs the whole step on the CPU; `device: cuda`
streams compute through a GPU of the learner's own while state stays in host memory (ZeRO-Offload,
arXiv 2101.06840; with stage 3 the parameters too). Fails with LearnerError on a gradient that is
not finite. With several learners (learners/peers.py) gradients are added up and optimizer state is
shared among them (ZeRO, arXiv 1910.02054).
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from core.errors import ConfigError, LearnerError
from core.sections.learner import LearnerConfig
from learners.peers import num_learners, rank

logger = logging.getLogger(__name__)

MOMENTS = ("exp_avg", "exp_avg_sq")


def deepspeed_config(config: LearnerConfig) -> dict[str, Any]:
    """Our few settings in DeepSpeed's terms. The caller decides when a step is due."""
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False}
    if config.device == "cuda":
        host = {"device": "cpu", "pin_memory": True}
        zero["offload_optimizer"] = host
        if config.zero_stage == 3:
            zero["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": zero,
        # torch's fused AdamW is as fast as DeepSpeed's own and needs no compiling.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


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
        self._config = config
        deepspeed = _import_deepspeed(config.device)
        _join_process_group(deepspeed, config.device)
        optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._engine, self._zero, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(config)
        )
        self._gathered = deepspeed.zero.GatheredParameters
        self._safe = deepspeed.utils
        self.step_count = 0
        """Optimizer steps done."""

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    def forward(self, *inputs: Any) -> Any:
        return self._engine(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds to the gradients; they are kept until `step`.

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
        for group in self._zero.param_groups:
            group["lr"] = lr
        if num_learners() > 1:
            self._fill_gradients()
        self._zero.loss_scale = divide_by  # which DeepSpeed divides by, before it looks at norms
        self._engine.step()
        self._zero.loss_scale = 1.0
        norm = float(self._engine.get_global_grad_norm())
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
        sharded = self._config.zero_stage == 3
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
            parts = {"master": self._safe.safe_get_full_fp32_param(parameter)}
            for moment in MOMENTS if self.step_count else ():
                parts[moment] = self._safe.safe_get_full_optimizer_state(parameter, moment)
            if rank() == 0:
                tensors |= {f"{kind}/{name}": tensor.cpu() for kind, tensor in parts.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, torch.Tensor], *, step_count: int) -> None:
        """What `state_tensors` gave at that step. Raises ConfigError for another model's state."""
        self.step_count = step_count
        self._reset_optimizer_state()
        try:
            for name, parameter in self._trainable():
                self._safe.safe_set_full_fp32_param(parameter, tensors[f"master/{name}"])
                for moment in MOMENTS if step_count else ():
                    value = tensors[f"{moment}/{name}"]
                    self._safe.safe_set_full_optimizer_state(parameter, value, moment)
        except KeyError as error:
            raise ConfigError(
                f"the checkpoint's state has no {error}; it was made with another policy, "
                "or with another learner.freeze_vision or lora_rank"
            ) from error
        torch.set_rng_state(tensors["rng"])

    def close(self) -> None:
        self._engine.destroy()

    def _fill_gradients(self) -> None:
        """Zeros where this learner's packs gave none (no pack, no image), as the others' may have:
        DeepSpeed lays all gradients end to end and adds them up at once."""
        self._zero.setup_buckets()  # which else the first backward pass does
        for _, parameter in self._trainable():
            if self._zero.get_gradient_for_reduction(parameter) is not None:
                continue
            if self._zero.use_grad_accum_attribute:
                parameter.grad_accum = torch.zeros_like(parameter, dtype=torch.float32)
            else:
                parameter.grad = torch.zeros_like(parameter)

    def _trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def _reset_optimizer_state(self) -> None:
        """AdamW's state as it is after `step_count` steps, moments still zero.

        AdamW makes its state in its first step, and DeepSpeed maps parameters to it then; a fresh
        engine has neither yet.
        """
        if self.step_count == 0:
            return
        base = self._zero.optimizer
        stage_3 = self._config.zero_stage == 3
        for flat in (
            self._zero.fp32_partitioned_groups_flat
            if stage_3
            else self._zero.single_partition_of_fp32_groups
        ):
            base.state[flat] = {
                "step": torch.tensor(float(self.step_count)),
                **{moment: torch.zeros_like(flat) for moment in MOMENTS},
            }
        if not stage_3:
            self._zero._lazy_init_hp_params_optimizer_state()


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
