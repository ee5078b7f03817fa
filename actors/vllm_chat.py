"""vLLM's own OpenAI chat server without its HTTP: a request body in, a response body out.

Image inputs, chat template, schema-guided decoding and usage counts are vLLM's. Raises InfraError
when the engine does not start.
"""

import asyncio
import json
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionRequest,
    ChatCompletionResponse,
)
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import VLLMError
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from core.errors import InfraError, boundary
from core.sections.served import ServedConfig

# Without white space: else a schema lets a weak model write it until it is cut.
_DECODING = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
_ANSWERED = (VLLMError, ValueError, TypeError, OverflowError, NotImplementedError)
"""What vLLM's own server turns into an error response."""


class VllmChat:
    """Belongs to the event loop that `complete` is first awaited on."""

    def __init__(self, config: ServedConfig) -> None:
        """Start the engine's process (a minute)."""
        self._args = make_arg_parser(FlexibleArgumentParser()).parse_args(_arguments(config))
        self._state = State()
        self._prepared: asyncio.Task[None] | None = None
        with boundary(InfraError, "vLLM"):
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(self._args))

    async def complete(self, body: dict[str, Any]) -> tuple[int, str]:
        """(status, JSON) as the HTTP server would send them: what the request did wrong (too
        long, too many images) is a 4xx, which nobody asks again."""
        if self._prepared is None or _has_failed(self._prepared):
            self._prepared = asyncio.create_task(self._prepare())
        await asyncio.shield(self._prepared)  # a caller that gives up must not stop it for all
        try:
            # There is one model here, whatever name its callers have for it.
            request = ChatCompletionRequest.model_validate({**body, "model": None})
        except ValidationError as error:
            return 400, json.dumps({"error": {"message": str(error)[:500], "code": 400}})
        try:
            reply = await self._state.openai_serving_chat.create_chat_completion(request, None)
        except _ANSWERED as error:
            reply = create_error_response(error)
        if isinstance(reply, ChatCompletionResponse):
            return 200, reply.model_dump_json()
        return reply.error.code, reply.model_dump_json()

    async def check(self) -> None:
        """Raises when the engine is dead."""
        await self._engine.check_health()

    async def _prepare(self) -> None:
        tasks = await self._engine.get_supported_tasks()
        await init_app_state(self._engine, self._state, self._args, tasks)


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _arguments(config: ServedConfig) -> list[str]:
    """The command line of `vllm serve` for this config."""
    limits = json.dumps({"image": config.max_images, "video": 0})
    arguments = [
        *("--model", config.path, "--dtype", config.dtype),
        *("--max-model-len", str(config.max_context), "--max-num-seqs", str(config.max_ongoing)),
        *("--kv-cache-memory-bytes", str(int(config.kv_cache_gib * 1024**3 / config.num_devices))),
        *("--limit-mm-per-prompt", limits, "--generation-config", "vllm"),
        *("--structured-outputs-config", _DECODING),
        "--disable-log-stats",
    ]
    if config.num_devices > 1:
        arguments += ["--tensor-parallel-size", str(config.num_devices)]
    if config.num_gpus_per_replica == 0:
        # Eager on a CPU: compiling costs more than it gives to a tiny model.
        arguments += ["--enforce-eager", "--no-enable-chunked-prefill"]
    return arguments
