"""A remote painter: it can be slow, lose requests, or raise."""

import asyncio
from collections.abc import Hashable, Mapping
from typing import Any

from actors.render_client import Painted
from core.errors import InfraError, RenderError
from core.records import RenderRequest
from tests.fakes.failures import FailureScript
from tests.fakes.image_model import paint_key


class FakePainter:
    """Implements actors.render_client.RemotePainter; the scripts are keyed by prompt.

    Events: ("paint", prompt, number of references) at the start and ("done", prompt) at the end.
    """

    def __init__(
        self,
        *,
        lost_times: Mapping[Hashable, int] | None = None,
        hang_times: Mapping[Hashable, int] | None = None,
        raising: frozenset[str] = frozenset(),
    ) -> None:
        self._lost = FailureScript(lost_times)
        self._hanging = FailureScript(hang_times)
        self._raising = raising
        self.open = asyncio.Event()
        self.open.set()
        self.events: list[tuple[Any, ...]] = []

    spent_usd = 0.0

    async def paint(self, request: RenderRequest, *, references: tuple[bytes, ...]) -> Painted:
        self.events.append(("paint", request.prompt, len(references)))
        await self.open.wait()
        if self._hanging.should_fail(request.prompt):
            await asyncio.Event().wait()
        if self._lost.should_fail(request.prompt):
            raise InfraError("the replica died")
        if request.prompt in self._raising:
            raise RenderError("the pipeline raised")
        self.events.append(("done", request.prompt))
        return Painted(data=paint_key(request))
