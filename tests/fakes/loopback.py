"""An aiohttp server on a free loopback port, for the time of an `async with`."""

from collections.abc import Iterable
from typing import Self

from aiohttp import web


class LoopbackServer:
    """A fake provider says what it answers; this starts and stops it."""

    _runner: web.AppRunner
    _port = 0
    """Known once the server has started."""

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()
