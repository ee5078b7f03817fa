"""What an optimizer step works on: float32 masters, their gradients, and AdamW's moments.

    OwnMasters    float32 parameters are their own masters, and AdamW works on them in place
    ZeroMasters   masters are copies, laid end to end and shared out among learners (ZeRO,
                  arXiv 1910.02054)

In: DeepSpeed's engine after its backward passes. Out: a step, and state by parameter. The first
kind is DeepSpeed without ZeRO, for a learner that has nobody to share with and nothing to convert:
it spares a copy of the weights all the time, and copies of the gradients in every step.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

from learners.peers import num_learners

MOMENTS = ("exp_avg", "exp_avg_sq")
_EPSILON = 1e-6
"""Added to the norm that divides, as DeepSpeed does."""

Tensors = Mapping[str, torch.Tensor]


class Masters(Protocol):
    def step(self, *, lr: float, divide_by: float) -> float:
        """Add gradients up over learners, divide, clip, update, clear; their norm before clipping.
        One that is not finite changes nothing."""
        ...

    def copy(self, parameter: torch.nn.Parameter, *, moments: bool) -> Tensors:
        """ "master" and, once there are any, moments, whole and float32."""
        ...

    def set(self, parameter: torch.nn.Parameter, tensors: Tensors) -> None:
        """What `copy` gave, after `reset`."""
        ...

    def reset(self, *, step_count: int) -> None:
        """AdamW's state as it is after so many steps, moments still zero. A fresh engine has none
        yet: it is made in the first step."""
        ...


class OwnMasters:
    def __init__(self, engine: Any, *, max_grad_norm: float) -> None:
        self._engine = engine
        self._optimizer = engine.optimizer
        self._max_grad_norm = max_grad_norm
        engine.enable_backward_allreduce = False  # it would copy gradients to add up one of each

    def step(self, *, lr: float, divide_by: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        for parameter in self._parameters():
            if parameter.grad is None:  # of a part that nothing went through; its moments decay
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) / divide_by
        if not math.isfinite(norm):
            self._engine.zero_grad()
            return norm
        scale = min(1.0, self._max_grad_norm / (norm + _EPSILON)) / divide_by
        for gradient in gradients:
            gradient.mul_(scale)
        del gradients
        self._engine.step()
        return norm

    def copy(self, parameter: torch.nn.Parameter, *, moments: bool) -> Tensors:
        tensors = {"master": parameter.detach()}
        for moment in MOMENTS if moments else ():
            tensors[moment] = self._optimizer.state[parameter][moment]
        return {kind: tensor.clone() for kind, tensor in tensors.items()}

    def set(self, parameter: torch.nn.Parameter, tensors: Tensors) -> None:
        with torch.no_grad():
            parameter.copy_(tensors["master"])
        for moment in MOMENTS:
            if moment in tensors:
                self._optimizer.state[parameter][moment].copy_(tensors[moment])

    def reset(self, *, step_count: int) -> None:
        for parameter in self._parameters():
            _reset(self._optimizer, parameter, step_count)

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        return (p for group in self._optimizer.param_groups for p in group["params"])


class ZeroMasters:
    def __init__(self, engine: Any, access: Any, *, stage: int) -> None:
        """`access`: deepspeed.utils, whose functions find a parameter's share of the state."""
        self._access = access
        self._engine = engine
        self._zero = engine.optimizer
        self._stage = stage

    def step(self, *, lr: float, divide_by: float) -> float:
        for group in self._zero.param_groups:
            group["lr"] = lr
        if num_learners() > 1:
            self._fill_gradients()
        self._zero.loss_scale = divide_by  # which DeepSpeed divides by, before it looks at norms
        self._engine.step()
        self._zero.loss_scale = 1.0
        norm = float(self._engine.get_global_grad_norm())
        if self._stage < 3 and not math.isfinite(norm):
            # With the optimizer in host memory DeepSpeed would add the next gradients to these.
            self._zero.averaged_gradients = dict.fromkeys(self._zero.averaged_gradients)
        return norm

    def copy(self, parameter: torch.nn.Parameter, *, moments: bool) -> Tensors:
        tensors = {"master": self._access.safe_get_full_fp32_param(parameter)}
        for moment in MOMENTS if moments else ():
            tensors[moment] = self._access.safe_get_full_optimizer_state(parameter, moment)
        return {kind: tensor.cpu() for kind, tensor in tensors.items()}

    def set(self, parameter: torch.nn.Parameter, tensors: Tensors) -> None:
        self._access.safe_set_full_fp32_param(parameter, tensors["master"])
        for moment in MOMENTS:
            if moment in tensors:
                self._access.safe_set_full_optimizer_state(parameter, tensors[moment], moment)

    def reset(self, *, step_count: int) -> None:
        for flat in (
            self._zero.fp32_partitioned_groups_flat
            if self._stage == 3
            else self._zero.single_partition_of_fp32_groups
        ):
            _reset(self._zero.optimizer, flat, step_count)
        if self._stage < 3:
            # DeepSpeed maps parameters to the state in its first step.
            self._zero._lazy_init_hp_params_optimizer_state()

    def _fill_gradients(self) -> None:
        """Zeros where this learner's packs gave none (no pack, no image), as the others' may have:
        DeepSpeed lays all gradients end to end and adds them up at once."""
        self._zero.setup_buckets()  # which else the first backward pass does
        for parameter in self._engine.module.parameters():
            if not parameter.requires_grad:
                continue
            if self._zero.get_gradient_for_reduction(parameter) is not None:
                continue
            if self._zero.use_grad_accum_attribute:
                parameter.grad_accum = torch.zeros_like(parameter, dtype=torch.float32)
            else:
                parameter.grad = torch.zeros_like(parameter)


def _reset(optimizer: torch.optim.Optimizer, master: torch.Tensor, step_count: int) -> None:
    """In place where there is a state: DeepSpeed holds views of it."""
    state = optimizer.state[master]
    state["step"] = torch.tensor(float(step_count))
    for moment in MOMENTS:
        if moment in state:
            state[moment].zero_()
        else:
            state[moment] = torch.zeros_like(master)
