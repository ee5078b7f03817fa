"""`gensearcher fake-web`: the loopback web until Ctrl-C, and what a run needs to use it."""

import asyncio
import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from envs.fake_web.app import Links
from envs.fake_web.server import key_variables, nano_web, overrides_for, serving

ASK_THE_WEB = ("tools.search=serper", "tools.image_search=serper", "tools.pages=[jina, fetch]")


def serve_fake_web(port: int, *, links: Links, as_json: bool, say: Callable[[str], None]) -> None:
    """Says one JSON line, or lines for a shell, once it answers. Raises ConfigError."""
    with tempfile.TemporaryDirectory(prefix="fake-web-") as folder:
        asyncio.run(_serve(Path(folder), port, links=links, as_json=as_json, say=say))


async def _serve(
    folder: Path, port: int, *, links: Links, as_json: bool, say: Callable[[str], None]
) -> None:
    async with serving(nano_web(folder, links=links), port=port) as address:
        keys, overrides = key_variables(), overrides_for(address)
        if as_json:
            found = {"address": address, "environment": keys, "overrides": overrides}
            say(json.dumps(found))
        else:
            exports = " ".join(f"{name}={value}" for name, value in keys.items())
            say(f"# {address} answers as every provider; Ctrl-C ends it. In another shell:")
            say(f"export {exports}")
            say(f"gensearcher train {shlex.join((*ASK_THE_WEB, *overrides))}")
        await asyncio.Event().wait()
