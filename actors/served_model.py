"""A vision-language model that the run serves itself: Ray Serve replicas around vLLM.

In: a `ServedConfig`. Out: `ServedHttp`, an `HttpClient` that takes the request body of OpenAI's
chat completions and gives the response of vLLM's own OpenAI server. So the judge and the browse
summariser ask it through the same `OpenAIChat` and `Endpoint` as any endpoint; there is no HTTP
proxy and no port. Replicas come and go with the questions under way (`max_ongoing` each).

Why not `ray.serve.llm`: docs/decisions/0004-served-judge.md.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from core.errors import InfraError, ToolError
from core.protocols import HttpResponse
from core.sections.served import ServedConfig

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 1800.0
"""Loading a large model over a network takes minutes."""


class ServedModel:
    """One replica, one vLLM engine."""

    def __init__(self, config: ServedConfig) -> None:
        from actors.vllm_chat import VllmChat  # here, so that the driver loads no vLLM for it

        self._chat = VllmChat(config)

    async def chat(self, body: dict[str, Any]) -> tuple[int, str]:
        """(status, JSON) of one chat completion."""
        return await self._chat.complete(body)

    async def check_health(self) -> None:
        await self._chat.check()


class ServedHttp:
    """Implements core.protocols.HttpClient over the deployment; its URLs are names only."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._handle: DeploymentHandle | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json_body: Any = None,
        timeout_s: float,
        max_bytes: int,
    ) -> HttpResponse:
        """Raises ToolError when no replica answered in time; the Endpoint asks again."""
        question = self._deployment().chat.remote(json_body)
        try:
            async with asyncio.timeout(timeout_s):
                status, text = await question
        except asyncio.CancelledError:
            question.cancel()
            raise
        except TimeoutError as error:
            question.cancel()  # else the replica goes on with it, beside the next try
            raise ToolError(f"the served model did not answer in {timeout_s:g} s") from error
        except RayTaskError as error:
            raise ToolError(f"the served model raised {error.cause!r}"[:300]) from error
        except (RayError, RayServeException) as error:
            kind = type(error).__name__
            raise ToolError(f"the served model was lost: {kind}", error_type=kind) from error
        data = text.encode()
        if len(data) > max_bytes:
            raise ToolError(f"the reply is longer than {max_bytes} bytes", retryable=False)
        return HttpResponse(status=status, headers={}, body=data)

    def _deployment(self) -> DeploymentHandle:
        if self._handle is None:
            try:
                self._handle = serve.get_app_handle(self._app_name)
            except RayServeException as error:
                message = f"the model {self._app_name} is not served: {error}"
                raise ToolError(message, error_type=type(error).__name__) from error
        return self._handle


def deploy_model(config: ServedConfig, *, app_name: str) -> None:
    """Start the replicas on the connected Ray cluster and wait until they are ready.

    Raises InfraError when they do not start.
    """
    path = Path(config.path)
    if path.exists():  # replicas run in another folder; a path that is not here is a hub id
        config = config.model_copy(update={"path": str(path.resolve())})
    serve.start(proxy_location="Disabled")
    app = serve.deployment(ServedModel).options(**_deployment_options(config)).bind(config)
    try:
        serve.run(app, name=app_name, route_prefix=None)
    except RuntimeError as error:
        raise InfraError(f"the served model did not start: {error}") from error
    logger.info("the served model is up: %s", config.path)


def served_app_name(role: Literal["judge", "summariser"], *, run_name: str) -> str:
    """Two runs on one cluster serve each their own."""
    return f"served-{role}-{run_name}"


def _deployment_options(config: ServedConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "health_check_timeout_s": 60,
        "max_ongoing_requests": config.max_ongoing,
        "ray_actor_options": {
            "num_cpus": config.num_cpus_per_replica,
            "num_gpus": config.num_gpus_per_replica,
        },
    }
    if config.min_replicas == config.max_replicas:
        return options | {"num_replicas": config.max_replicas}
    scaling = {
        "min_replicas": config.min_replicas,
        "initial_replicas": max(config.min_replicas, 1),
        "max_replicas": config.max_replicas,
        "target_ongoing_requests": max(1, config.max_ongoing // 2),
    }
    return options | {"autoscaling_config": scaling}
