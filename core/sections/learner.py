"""The learner: reinforcement and imitation."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from core.sections.base import Section


def _ordered(band: tuple[float, float]) -> tuple[float, float]:
    if not 0 < band[0] <= 1 <= band[1]:
        raise ValueError("must be [low, high] with 0 < low <= 1 <= high")
    return band


Beta = Annotated[float, Field(ge=0, lt=1)]
Band = Annotated[tuple[float, float], AfterValidator(_ordered)]


class LearnerConfig(Section):
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of compute; master weights are float32 when this is bfloat16."""
    num_learners: int = Field(1, ge=1)
    """Processes that share the work of a batch; their gradients are added up."""
    num_cpus: float = Field(0.5, ge=0)
    """Of each learner."""
    zero_stage: Literal[1, 2, 3] | None = None
    """What DeepSpeed's ZeRO cuts up: 1 optimizer state, 2 gradients too, 3 weights too. None: 1, or
    nothing at all where one CPU learner computes in float32, or 2 where one learner computes in
    bfloat16: 2 and 3 add up the gradients of several packs in float32, 1 in `dtype`."""
    lr: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(5, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    objective: Literal["clipped", "gspo", "cispo"] = "clipped"
    """learners/objectives says which settings make GRPO, Dr.GRPO, DAPO, GSPO and CISPO."""
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.28, gt=0)
    advantage_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO); False: Dr.GRPO."""
    aggregation: Literal["token_mean", "sequence_mean", "sequence_mean_token_sum"] = "token_mean"
    overlong_buffer: int | None = Field(None, ge=1)
    """Tokens before rollout.max_context over which the reward falls by up to 1; None: off."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL to the policy at policy.path; above 0 it costs one more copy of the weights
    on the learner's device and one more forward pass."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    correction: Literal["none", "truncated", "masked"] = "truncated"
    """What off-policy tokens are weighted by: learners/objectives/corrections.py."""
    tis_cap: float = Field(2.0, gt=0)
    """Cap of a truncated weight."""
    token_band: Band = (0.5, 2.0)
    """Weights that a masked correction keeps."""
    sequence_band: Band | None = None
    """Geometric mean weights of the sequences that are kept, e.g. [0.99, 1.01]; None: all."""
    correct_on_policy: bool = False
    """Correct tokens of the current version too: the rollout's engine has other numerics."""
    updates_per_step: int = Field(1, ge=1)
    """Optimizer steps that one batch of groups is split into."""
    micro_batch_tokens: int = Field(4096, ge=64)
    """Most tokens of sequences that are packed together; a longer sequence goes alone."""
    share_prefix: bool = True
    """Compute the first prompt of a group once per pack instead of once per member."""
    gradient_checkpointing: bool | None = None
    """Keep one activation per layer and compute the layer again in the backward pass: a third more
    compute for a fraction of the memory. None: on a GPU only."""
    freeze_vision: bool = True
    lora_rank: int | None = Field(None, ge=1)
    """Train adapters of this rank (LoRA) on the language model instead of its weights, and send
    these alone to the rollout workers. None: train the weights."""
    lora_alpha: float = Field(32.0, gt=0)
    """What an adapter adds is multiplied by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    broadcast: Literal["auto", "dense", "delta"] = "auto"
    """How weights reach the rollout workers. "delta" sends the bits that changed since the last
    time, without loss; "auto" does so when few changed."""
    snapshot_every: int = Field(10, ge=1)
    """Of so many broadcasts one is dense, whatever `broadcast` says: a worker that starts late
    catches up from there."""

    @model_validator(mode="after")
    def _learners_agree(self) -> Self:
        if self.num_learners > 1 and self.zero_stage not in (None, 1):
            raise ValueError(
                f"learner.zero_stage={self.zero_stage} needs learner.num_learners=1: several "
                "learners have unequal numbers of passes, which stage 1 alone allows; set "
                "learner.zero_stage=1"
            )
        return self

    @model_validator(mode="after")
    def _something_corrects(self) -> Self:
        if self.correct_on_policy and not self.corrects:
            raise ValueError(
                "learner.correct_on_policy=true corrects nothing without a correction; set "
                "learner.correction=truncated (or masked), or a learner.sequence_band"
            )
        return self

    @model_validator(mode="after")
    def _adapters_leave_vision_alone(self) -> Self:
        if self.lora_rank is not None and not self.freeze_vision:
            raise ValueError(
                "learner.freeze_vision=false needs learner.lora_rank=null: adapters are added to "
                "the language model alone"
            )
        return self

    @property
    def own_masters(self) -> bool:
        """Whether the weights are float32, and neither shared out nor on a GPU: then they need no
        second, float32 copy."""
        alone = self.zero_stage is None and self.num_learners == 1
        return alone and self.device == "cpu" and self.dtype == "float32"

    @property
    def lora_scale(self) -> float | None:
        """What the product of an adapter's factors is multiplied by; None: no adapters."""
        return None if self.lora_rank is None else self.lora_alpha / self.lora_rank

    @property
    def checkpoints_gradients(self) -> bool:
        """`gradient_checkpointing`, resolved."""
        chosen = self.gradient_checkpointing
        return self.device == "cuda" if chosen is None else chosen

    @property
    def corrects(self) -> bool:
        """Whether anything is done about tokens that another policy sampled."""
        return self.correction != "none" or self.sequence_band is not None


class SftConfig(Section):
    data: str | None = None
    """A ShareGPT JSON file; None: trajectories of the nano teacher."""
    steps: int = Field(50, ge=1)
    lr: float = Field(1e-4, gt=0)
    batch_size: int = Field(8, ge=1)
    eval_share: float = Field(0.05, ge=0, lt=1)
    """Share of the samples that is not trained on; the loss on it is measured. 0: none."""
    eval_every: int = Field(10, ge=1)
    """Steps from one such measurement to the next; the last step always has one."""
