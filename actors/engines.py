"""Which engine plays a recipe: one device in this process, or several in processes of their own."""

from typing import TYPE_CHECKING

from core.config import Config

if TYPE_CHECKING:
    from actors.vllm_async import AsyncVllmEngine
    from actors.vllm_engine import VllmEngine


def engine_type(config: Config) -> "type[VllmEngine | AsyncVllmEngine]":
    """Imported here and not at the top: a driver imports this module too, and vLLM is slow."""
    if config.rollout.tensor_parallel == 1:
        from actors.vllm_engine import VllmEngine

        return VllmEngine
    from actors.vllm_async import AsyncVllmEngine

    return AsyncVllmEngine
