"""An image model that paints one colour, a pure function of the request."""

import io
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from PIL import Image

from core.errors import RenderError
from core.places import Urgency
from core.protocols import ImageStore
from core.records import RenderedImage, RenderRequest
from tests.fakes.failures import FailureScript


def paint_key(request: RenderRequest) -> bytes:
    """A PNG in the colour that the first bytes of the request's key spell."""
    red, green, blue = bytes.fromhex(request.key[:6])
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (red, green, blue)).save(buffer, format="PNG")
    return buffer.getvalue()


class FakeImageModel:
    """Implements core.protocols.ImageModel; `fail_times` is keyed by prompt.

    It refuses what a real one refuses: too many references, and references that are not in the
    store. Events: ("render", request).
    """

    name = "fake"

    def __init__(
        self,
        store: ImageStore,
        *,
        paint: Callable[[RenderRequest], bytes] = paint_key,
        max_references: int = 3,
        cost_usd: float = 0.0,
        fail_times: Mapping[Hashable, int] | None = None,
    ) -> None:
        self._store = store
        self._paint = paint
        self._max_references = max_references
        self._cost_usd = cost_usd
        self._failures = FailureScript(fail_times)
        self.events: list[tuple[Any, ...]] = []
        self.spent_usd = 0.0

    @property
    def max_references(self) -> int:
        return self._max_references

    async def render(self, request: RenderRequest, *, urgency: Urgency = ()) -> RenderedImage:
        self.events.append(("render", request))
        if len(request.references) > self._max_references:
            message = f"{len(request.references)} references, at most {self._max_references}"
            raise RenderError(message, retryable=False)
        for reference in request.references:
            self._store.get(reference)
        if self._failures.should_fail(request.prompt):
            raise RenderError(f"scripted fault of the render of {request.prompt!r}")
        image = self._store.put(self._paint(request))
        self.spent_usd += self._cost_usd
        return RenderedImage(
            image=image, request=request, seconds=0.01, cached=False, cost_usd=self._cost_usd
        )
