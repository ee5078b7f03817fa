"""Image models, and how verdicts become one reward; judges are in core/sections/judge.py."""

from typing import Literal

from pydantic import Field

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
