"""vLLM as a policy: tokens in, tokens out, and weights that change under running requests.

`VllmEngine` keeps vLLM's LLMEngine in this process, on a thread of its own; many requests are in
flight at once. Log-probabilities are log pi at the sampling temperature over the vocabulary less
the banned ids, before top-p. Every token knows the policy version that sampled it. A fault of the
engine is an InfraError for every request in flight and for every later one.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine.llm_engine import LLMEngine

from actors.engine_thread import EngineThread
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
from core.protocols import Generated, GenerateRequest, ImageStore
from core.records import WeightUpdate
from learners.flat import DTYPES
from learners.lora import BaseWeights
from learners.receive import WeightReceiver


class VllmEngine:
    """An `Engine` (core/protocols.py) for one device. Needs the variables of `worker_env`."""

    def __init__(
        self,
        config: Config,
        *,
        images: ImageStore,
        stop_ids: Sequence[int],
        policy_version: int = 0,
    ) -> None:
        """Start vLLM and wait for it (seconds). `config.policy.path` holds `policy_version`.

        Raises InfraError when vLLM does not start.
        """
        self._images = images
        self._stop_ids = tuple(stop_ids)
        self._policy_version = policy_version
        self._request_numbers = itertools.count()
        self._counts = EngineCounts()
        self._receiver = WeightReceiver()
        self._base = BaseWeights(config.policy.path, dtype=DTYPES[config.policy.dtype])
        args = engine_args(config)
        self._thread = EngineThread(
            lambda: _start(args, policy_version=policy_version),
            shutdown=lambda engine: engine.engine_core.shutdown(),
            name="vLLM",
        )

    @property
    def policy_version(self) -> int:
        return self._policy_version

    async def generate(self, request: GenerateRequest) -> Generated:
        """Sample one turn. Cancelling it takes the request out of the engine."""
        started_s = time.perf_counter()
        pixels = await asyncio.to_thread(load_images, request.images, self._images)
        request_id = f"{request.rollout_id}-{next(self._request_numbers)}"

        def add(engine: LLMEngine) -> None:
            salt = cache_salt(self._policy_version, self._counts)
            prompt = build_prompt(request, pixels, salt=salt)
            params = build_sampling(
                request.sampling, max_tokens=request.max_tokens, stop_ids=self._stop_ids
            )
            engine.add_request(request_id, prompt, params)

        output = await asyncio.wrap_future(self._thread.request(request_id, add))
        count_request(self._counts, output, seconds=time.perf_counter() - started_s)
        return to_generated(request, output)

    async def apply_weights(
        self, updates: Sequence[WeightUpdate], payloads: Sequence[Sequence[np.ndarray]]
    ) -> None:
        """Replace the weights between two steps; running requests go on with the new ones.

        The payload is checked and put together beside the engine, which samples on meanwhile.
        Raises InfraError; after one that comes from loading (not from checking) the engine is
        closed, because its weights are then neither old nor new.
        """
        tensors = await asyncio.to_thread(self._weights, updates, payloads)

        def load(engine: LLMEngine) -> None:
            self._load(engine, tensors, version=updates[-1].version)

        await asyncio.wrap_future(self._thread.call(load, fatal=True))

    async def stats(self) -> EngineStats:
        """Raises InfraError when the engine is dead."""
        gauges = await asyncio.wrap_future(self._thread.call(_gauges))
        return self._counts.stats(num_running=self._thread.num_running, gauges=gauges)

    def check(self) -> None:
        """Raises InfraError when the engine is dead."""
        self._thread.check()

    async def aclose(self) -> None:
        """Shut the engine down. Requests in flight fail with InfraError."""
        await asyncio.to_thread(self._thread.close)

    def _weights(
        self, updates: Sequence[WeightUpdate], payloads: Sequence[Sequence[np.ndarray]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        tensors = self._receiver.receive_chain(updates, payloads)
        scale = updates[-1].lora_scale
        return tensors if scale is None else self._base.add(tensors, scale=scale)

    def _load(
        self, engine: LLMEngine, tensors: Iterator[tuple[str, torch.Tensor]], *, version: int
    ) -> None:
        started_s = time.perf_counter()
        engine.collective_rpc("load_policy", args=(tensors,))
        engine.reset_encoder_cache()  # its image features are the old vision tower's
        engine.set_weight_version(str(version))
        self._policy_version = version
        self._counts.add_update(seconds=time.perf_counter() - started_s)


def _start(args: EngineArgs, *, policy_version: int) -> LLMEngine:
    engine = LLMEngine.from_engine_args(args)
    engine.collective_rpc("report_whole_logprobs")
    engine.set_weight_version(str(policy_version))
    return engine


def _gauges(engine: LLMEngine) -> Gauges:
    core: Any = engine.engine_core
    scheduler = core.engine_core.scheduler
    waiting = list(scheduler.waiting)
    return Gauges(
        num_waiting=len(waiting),
        num_preempted=sum(request.num_preemptions > 0 for request in waiting),
        kv_usage=float(scheduler.kv_cache_manager.usage),
    )
