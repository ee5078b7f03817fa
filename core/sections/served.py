"""A model that the run serves itself, whoever asks it."""

from typing import Literal

from pydantic import Field

from core.sections.base import Section


class ServedConfig(Section):
    """A vision-language model that the run itself serves (Ray Serve around vLLM)."""

    path: str = ""
    """A Hugging Face folder or hub id."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    max_context: int = Field(16_384, ge=256)
    """Tokens of one question and its reply, image tokens counted."""
    max_images: int = Field(8, ge=0)
    """Of one question: the ground truth, the rendered image or the references."""
    min_replicas: int = Field(1, ge=0)
    """0: the model gives its devices back while nobody asks. The next question waits until it is
    loaded again, so the time-outs of who asks must be longer than that takes."""
    max_replicas: int = Field(1, ge=1)
    max_ongoing: int = Field(16, ge=1)
    """Questions that one replica answers at once."""
    num_cpus_per_replica: float = Field(1.0, ge=0)
    num_gpus_per_replica: float = Field(0.0, ge=0)
    kv_cache_gib: float = Field(1.0, gt=0)
    """Of one replica, shared by its devices."""

    @property
    def num_devices(self) -> int:
        """Over which the weights and the cache of one replica are spread."""
        return max(1, int(self.num_gpus_per_replica))
