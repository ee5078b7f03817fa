"""The render actors: a Ray Serve deployment that holds a diffusers pipeline, and its client.

In: a `RenderConfig`, an image store, a cache file. Out: a `RenderClient`, which is an `ImageModel`.
A replica draws one picture at a time (`max_ongoing_requests` = 1, so that the router spreads) and
gets the references as bytes, so it needs no image store. There is no HTTP proxy. Serve does not
retry the requests of a killed replica; the client does.
"""

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors.image_models import image_model_name, max_references
from actors.render_client import Painted, RenderCache, RenderClient
from core.errors import InfraError, RenderError
from core.protocols import ImageStore
from core.records import RenderRequest
from core.sections.scoring import RenderConfig
from core.stacks import answer_for_stacks

logger = logging.getLogger(__name__)

BATCH_SIZE: Final = 1
"""Edit-Plus pipelines take one prompt at a time."""


class RenderActor:
    """One replica, one pipeline."""

    def __init__(self, config: RenderConfig, run_dir: Path) -> None:
        from actors.diffusion import Painter  # here, so that the driver loads no torch for it

        answer_for_stacks(run_dir, "render")
        self._painter = Painter(config)

    async def paint(self, request: RenderRequest, references: tuple[bytes, ...]) -> bytes:
        """PNG bytes; the replica still answers health checks while it draws."""
        return await asyncio.to_thread(self._painter.paint, request, references=references)


class ServePainter:
    """Implements `RemotePainter` over a Serve handle; names what went wrong in our own errors."""

    spent_usd = 0.0

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def paint(self, request: RenderRequest, *, references: tuple[bytes, ...]) -> Painted:
        try:
            data: bytes = await self._handle.paint.remote(request, references)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, RenderError):
                raise cause from None
            raise RenderError(f"render actor raised {cause!r}", retryable=False) from error
        except (RayError, RayServeException) as error:
            raise InfraError(f"render actor lost: {type(error).__name__}: {error}") from error
        return Painted(data=data)


def deploy_render(
    config: RenderConfig, *, app_name: str, store: ImageStore, cache_path: Path
) -> RenderClient:
    """Start the replicas on the connected Ray cluster and wait until they are ready.

    `app_name` is the Serve application, one for each run that shares the cluster.
    Raises ConfigError for a path without a pipeline, InfraError when the replicas do not start.
    """
    config = _with_absolute_path(config)
    name = image_model_name(config)
    serve.start(proxy_location="Disabled")
    deployment = serve.deployment(RenderActor).options(**_deployment_options(config))
    app = deployment.bind(config, cache_path.parent)
    try:
        handle = serve.run(app, name=app_name, route_prefix=None)
    except RuntimeError as error:
        raise InfraError(f"the render actors did not start: {error}") from error
    logger.info("render actors are up: model=%s", name)
    return RenderClient(
        ServePainter(handle),
        name=name,
        max_references=max_references(config),
        renumber=config.extra_references == "renumber",
        store=store,
        cache=RenderCache(cache_path),
        max_in_flight=2 * BATCH_SIZE * config.max_replicas,
        timeout_s=config.timeout_s,
    )


def _deployment_options(config: RenderConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_ongoing_requests": BATCH_SIZE,
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
        "target_ongoing_requests": BATCH_SIZE,
    }
    return options | {"autoscaling_config": scaling}


def _with_absolute_path(config: RenderConfig) -> RenderConfig:
    """Replicas run in another folder; a path that is not here is a hub id."""
    path = Path(config.path)
    return config.model_copy(update={"path": str(path.resolve())}) if path.exists() else config
