"""The learner: reinforcement and imitation."""

from typing import Literal

from pydantic import Field

from core.sections.base import Section


class LearnerConfig(Section):
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of compute; master weights are float32 when this is bfloat16."""
    num_cpus: float = Field(0.5, ge=0)
    zero_stage: Literal[1, 2, 3] = 1
    lr: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(5, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.28, gt=0)
    advantage_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO); False: Dr.GRPO."""
    loss_aggregation: Literal["token_mean", "seq_mean_token_sum"] = "token_mean"
    tis_cap: float | None = Field(2.0, gt=0)
    """Cap of the truncated importance weight of off-policy tokens; None: off."""
    updates_per_step: int = Field(1, ge=1)
    """Optimizer steps that one batch of groups is split into."""
    micro_batch_tokens: int = Field(8192, ge=64)
    freeze_vision: bool = True
    broadcast: Literal["auto", "dense", "delta"] = "auto"
    """How weights reach the rollout workers. "delta" sends the bits that changed since the last
    time, without loss; "auto" does so when few changed."""
    snapshot_every: int = Field(10, ge=1)
    """Of so many broadcasts one is dense, whatever `broadcast` says: a worker that starts late
    catches up from there."""


class SftConfig(Section):
    data: str | None = None
    """A ShareGPT JSON file; None: trajectories of the nano teacher."""
    steps: int = Field(50, ge=1)
    lr: float = Field(1e-4, gt=0)
    batch_size: int = Field(8, ge=1)
