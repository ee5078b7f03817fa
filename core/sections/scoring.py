"""Image models, and how verdicts become one reward; judges are in core/sections/judge.py."""

from typing import Literal, Self

from pydantic import Field, model_validator

from core.sections.base import Section
from core.sections.image_models import ImageApiConfig, PipelineCallConfig


class RenderConfig(Section):
    backend: Literal["diffusers", "openai", "gemini", "seedream"] = "diffusers"
    """diffusers draws on replicas of ours; the others are asked over HTTP (`api`)."""
    pipeline: Literal["nano", "qwen-image-edit", "qwen-image", "custom"] = "nano"
    """Of diffusers; custom is described by `call`."""
    path: str = "models/nano/renderer"
    call: PipelineCallConfig = PipelineCallConfig()
    api: ImageApiConfig = ImageApiConfig()
    extra_references: Literal["refuse", "renumber"] = "refuse"
    """An answer with more references than the model takes is refused as the agent's fault, or
    its first ones are kept and the prompt is rewritten to point at no other."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    steps: int = Field(4, ge=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """One render per seed; their scores are averaged."""
    width: int = Field(32, ge=16)
    height: int = Field(32, ge=16)
    true_cfg_scale: float = Field(1.0, ge=0)
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    num_cpus_per_replica: float = Field(0.2, ge=0)
    num_gpus_per_replica: float = Field(0.0, ge=0)
    timeout_s: float = Field(120.0, gt=0)


class RewardConfig(Section):
    text_weight: float = Field(0.5, ge=0, le=1)
    """a in R = (1-a) R_image + a R_text."""
    na_rule: Literal["renormalise", "paper"] = "renormalise"
    normalise: Literal["blended", "per_part"] = "blended"
    """What advantages are normalised over: the reward, or each of its parts (GDPO)."""
    gate_weight: float = Field(0.0, ge=0, lt=1)
    """Share of the part `gate`, on tasks that need no search: answering directly pays."""
    format_weight: float = Field(0.0, ge=0, lt=1)
    """Share of the part `format`: turns that needed no repair."""
    budget_weight: float = Field(0.0, ge=0, lt=1)
    """Share of the part `budget`: turns left over."""

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        total = self.gate_weight + self.format_weight + self.budget_weight
        if total >= 1:
            raise ValueError(
                f"gate_weight + format_weight + budget_weight is {total:g}, which leaves nothing "
                "for the judged reward; keep it below 1"
            )
        return self
