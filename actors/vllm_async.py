"""vLLM over several devices: the same policy as `VllmEngine`, with the model in other processes.

`AsyncVllmEngine` drives vLLM's AsyncLLM for `rollout.tensor_parallel` > 1. Prompts, sampling and
the code in the workers are those of `VllmEngine`. Weights go to the ranks as one flat file in
shared memory, written again for every update; sampling pauses while they load it, and running
requests go on afterwards.

tests/integration/test_vllm_async.py holds it to transformers on CPU, float32, with one rank and, in
the soak, with two. No GPU has run it.
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from actors.stats import EngineCounts, EngineStats, Gauges
from actors.vllm_requests import (
    build_prompt,
    build_sampling,
    cache_salt,
    count_request,
    engine_args,
    load_images,
    to_generated,
)
from core.config import Config
from core.errors import InfraError, boundary
from core.protocols import Generated, GenerateRequest, ImageStore
from core.records import WeightUpdate, to_jsonable
from learners.receive import WeightReceiver

SHARED_MEMORY = "/dev/shm"


class AsyncVllmEngine:
    """An `Engine` (core/protocols.py) with the methods of `VllmEngine`."""

    def __init__(
        self,
        config: Config,
        *,
        images: ImageStore,
        stop_ids: Sequence[int],
        policy_version: int = 0,
    ) -> None:
        """Start vLLM's processes (a minute). Raises InfraError when they do not start."""
        self._images = images
        self._stop_ids = tuple(stop_ids)
        self._policy_version = policy_version
        self._request_numbers = itertools.count()
        self._running: set[asyncio.Task[RequestOutput]] = set()
        self._fault: InfraError | None = None
        self._counts = EngineCounts()
        self._prepared: asyncio.Task[None] | None = None
        self._folder = tempfile.TemporaryDirectory(dir=SHARED_MEMORY, prefix="gensearcher-")
        self._weights_path = Path(self._folder.name) / "weights"
        self._receiver = WeightReceiver(self._allocate)
        with boundary(InfraError, "vLLM"):
            self._engine = AsyncLLM.from_engine_args(engine_args(config))

    @property
    def policy_version(self) -> int:
        return self._policy_version

    async def generate(self, request: GenerateRequest) -> Generated:
        """Sample one turn. Cancelling it takes the request out of the engine."""
        started_s = time.perf_counter()
        pixels = await asyncio.to_thread(load_images, request.images, self._images)
        await self._prepare()
        prompt = build_prompt(request, pixels, salt=cache_salt(self._policy_version, self._counts))
        params = build_sampling(
            request.sampling, max_tokens=request.max_tokens, stop_ids=self._stop_ids
        )
        request_id = f"{request.rollout_id}-{next(self._request_numbers)}"
        self.check()
        task = asyncio.create_task(self._sample(prompt, params, request_id))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            output = await task
        except asyncio.CancelledError:
            self.check()  # cancelled by us, because the engine has ended
            raise
        count_request(self._counts, output, seconds=time.perf_counter() - started_s)
        return to_generated(request, output)

    async def apply_weights(
        self, updates: Sequence[WeightUpdate], payloads: Sequence[Sequence[np.ndarray]]
    ) -> None:
        """Replace the weights while sampling pauses; running requests go on with the new ones.

        Raises InfraError; after one that comes from loading (not from checking) the weights are
        neither old nor new, so sampling stays paused and the engine is shut down.
        """
        await asyncio.to_thread(self._receiver.receive_chain, updates, payloads)
        update = updates[-1]
        await self._prepare()
        started_s = time.perf_counter()
        try:
            with boundary(InfraError, "vLLM"):
                # Prefix caches are kept apart by their salt: clearing them under requests
                # with images kills the engine.
                await self._engine.pause_generation(mode="keep", clear_cache=False)
                await self._engine.collective_rpc(
                    "load_policy_file", args=(str(self._weights_path), to_jsonable(update.manifest))
                )
                await self._engine.reset_encoder_cache()
                await self._engine.update_weight_version(str(update.version))
                await self._engine.resume_generation()
        except InfraError as error:
            self._fault = error
            await self.aclose()
            raise
        self._policy_version = update.version
        self._counts.add_update(seconds=time.perf_counter() - started_s)

    async def stats(self) -> EngineStats:
        return self._counts.stats(num_running=len(self._running), gauges=Gauges())

    def check(self) -> None:
        """Raises InfraError when the engine is dead."""
        if self._fault is not None:
            raise self._fault
        if self._engine.errored:
            raise InfraError("vLLM: the engine process is dead")

    async def aclose(self) -> None:
        """End vLLM's processes. Requests in flight fail with InfraError."""
        self._fault = self._fault or InfraError("vLLM is closed")
        for task in tuple(self._running):
            task.cancel()
        await asyncio.to_thread(self._engine.shutdown)
        self._folder.cleanup()

    def _allocate(self, size: int) -> np.ndarray:
        """The flat weight buffer, as a file that the ranks map too."""
        return np.memmap(self._weights_path, dtype=np.uint8, mode="w+", shape=(size,))

    async def _sample(
        self, prompt: dict[str, Any], params: SamplingParams, request_id: str
    ) -> RequestOutput:
        with boundary(InfraError, "vLLM"):
            outputs = [out async for out in self._engine.generate(prompt, params, request_id)]
        return outputs[-1]

    async def _prepare(self) -> None:
        """Once, before the first request: it needs the event loop that a constructor lacks."""
        if self._prepared is None:
            self._prepared = asyncio.create_task(self._set_up_workers())
        await asyncio.shield(self._prepared)

    async def _set_up_workers(self) -> None:
        with boundary(InfraError, "vLLM"):
            await self._engine.collective_rpc("report_whole_logprobs")
            await self._engine.update_weight_version(str(self._policy_version))
