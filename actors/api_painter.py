"""An image model behind somebody else's HTTP API, as a `RemotePainter`.

In: a `RenderConfig` and the key. Out: the bytes of one picture and its price. Every retry is made
here, by the two `Endpoint`s (the API; the host that the API says the picture lies on), and what is
left after the last one is a `RenderError`; `RenderClient` in front keeps, coalesces and bounds,
and asks once.
"""

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from actors.image_apis import (
    GeminiImages,
    ImageAddress,
    ImageApi,
    OpenAIImages,
    SeedreamImages,
    check_image,
)
from actors.image_models import image_model_name, max_references
from actors.render_client import Painted, RenderCache, RenderClient
from core.chat_completions import Picture
from core.endpoint import Endpoint, EndpointCounters, HttpRequest, Limits
from core.errors import RenderError
from core.protocols import HttpClient, ImageStore
from core.records import RenderRequest
from core.sections.scoring import RenderConfig

_APIS: Final[dict[str, type[OpenAIImages] | type[GeminiImages] | type[SeedreamImages]]] = {
    "openai": OpenAIImages,
    "gemini": GeminiImages,
    "seedream": SeedreamImages,
}
_UNBOUNDED_S: Final = 24 * 3600.0
"""RenderClient's own limit of a try; the endpoints' deadlines are the ones that count."""


class ApiPainter:
    """Implements actors.render_client.RemotePainter."""

    def __init__(
        self, api: ImageApi, *, endpoint: Endpoint, files: Endpoint, config: RenderConfig
    ) -> None:
        """`files` fetches from addresses that a stranger wrote: its client is the guarded one."""
        self._api = api
        self._endpoint = endpoint
        self._files = files
        self._usd_per_image = config.api.usd_per_image
        self._max_bytes = config.api.max_image_mib << 20
        self.spent_usd = 0.0

    async def paint(self, request: RenderRequest, *, references: tuple[bytes, ...]) -> Painted:
        pictures = [
            Picture(data=data, media_type=ref.media_type)
            for ref, data in zip(request.references, references, strict=True)
        ]
        asked = self._api.request(request.prompt, pictures)
        found = await self._endpoint.ask(asked, self._api.read)
        self.spent_usd += self._usd_per_image  # also when its host will not hand it out
        if isinstance(found, ImageAddress):
            address = HttpRequest(method="GET", url=found.url, max_bytes=self._max_bytes)
            found = await self._files.ask(address, lambda response: check_image(response.body))
        return Painted(data=found, cost_usd=self._usd_per_image)

    def counters(self) -> EndpointCounters:
        """Of the API; a retry is an exchange more."""
        return self._endpoint.counters()


def open_api_model(
    config: RenderConfig,
    *,
    api_key: str,
    http: HttpClient,
    guarded: HttpClient,
    store: ImageStore,
    cache_path: Path,
) -> RenderClient:
    """`http` reaches the endpoint that the config names, `guarded` only the public internet.

    Raises ConfigError when the config names no model.
    """
    name = image_model_name(config)
    api = config.api
    limits = Limits(
        per_second=api.per_second,
        max_in_flight=api.max_in_flight,
        timeout_s=config.timeout_s,
        deadline_s=api.deadline_s,
        max_tries=api.max_tries,
    )
    painter = ApiPainter(
        _APIS[config.backend](api, api_key=api_key),
        endpoint=Endpoint(http, name=f"{config.backend} images", limits=limits, error=RenderError),
        files=Endpoint(guarded, name="the image's host", limits=limits, error=RenderError),
        config=config,
    )
    return RenderClient(
        painter,
        name=name,
        max_references=max_references(config),
        renumber=config.extra_references == "renumber",
        store=store,
        cache=RenderCache(cache_path),
        max_in_flight=api.max_in_flight,
        timeout_s=_UNBOUNDED_S,
    )


def own_host(base_url: str) -> tuple[str, ...]:
    """The host:port of an endpoint that the config names, where its pictures may lie as well."""
    if not base_url:
        return ()
    parts = urlsplit(base_url)
    return (f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}",)
