"""Serves a `FakeWeb` on loopback: until stopped, or on a thread beside a test.

In: a `FakeWeb` and a port (0: a free one). Out: its address, and the overrides that point a run at
it. Fails with ConfigError when the port is taken.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web

from core.errors import ConfigError
from envs.corpus import Corpus, build_corpus
from envs.fake_web.app import KEY, FakeWeb, Links
from envs.images import FileImageStore
from envs.nano.flags import SIZE
from envs.nano.world import World

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_S = 0.5
"""For answers that a fault makes slow on purpose."""
KEYED = ("serper", "brave", "tavily", "serpapi", "jina")
SERVED = (*KEYED, "searxng")


def nano_web(folder: Path, *, links: Links = "absolute", world: World | None = None) -> FakeWeb:
    """The nano encyclopedia; `folder` takes its corpus and images, and must outlive it."""
    world, images = world or World(), FileImageStore(folder / "images")
    path = folder / "corpus.sqlite"
    build_corpus(path, pages=world.pages(), images=world.images(), store=images)
    return FakeWeb(Corpus(path), images, links=links)


def overrides_for(address: str) -> tuple[str, ...]:
    """What points every provider at the server and lets pages and images be fetched from it.

    Which providers a run asks (`tools.search=serper`, ...) is left to the caller.
    """
    host = address.removeprefix("http://")
    return (
        *(f"tools.{name}.base_url={address}/{name}" for name in SERVED),
        f"tools.guard.allow=[{host}]",
        f"tools.downloads.min_side={SIZE}",
    )


def key_variables() -> dict[str, str]:
    """The environment that a run needs: every key is the same."""
    return {f"{name.upper()}_API_KEY": KEY for name in KEYED}


@asynccontextmanager
async def serving(fake: FakeWeb, *, port: int = 0) -> AsyncIterator[str]:
    """Gives the address. Raises ConfigError when the port cannot be had."""
    runner = web.AppRunner(fake.app(), shutdown_timeout=STOP_TIMEOUT_S, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror}; take another one") from error
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def serving_on_a_thread(fake: FakeWeb) -> Iterator[str]:
    """The same for code without an event loop of its own."""
    up, stop = threading.Event(), asyncio.Event()
    began: list[tuple[asyncio.AbstractEventLoop, str]] = []

    async def serve() -> None:
        async with serving(fake) as address:
            began.append((asyncio.get_running_loop(), address))
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    up.wait()
    loop, address = began[0]
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
