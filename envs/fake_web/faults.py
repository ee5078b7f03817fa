"""What may go wrong with a service: switched on by name, for so many requests.

In: a `Fault` per service. Out: the response that a client sees in the place of, or made from, the
good one.
"""

import asyncio
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal

from aiohttp import web

from envs.fake_web.shapes import ERROR_BODIES

Kind = Literal[
    "status",
    "error_body",
    "null_lists",
    "truncated",
    "slow_headers",
    "slow_body",
    "redirect",
    "redirect_loop",
    "wrong_type",
    "huge_body",
    "reset",
]

HOP = "fake-web-hop"
"""Query parameter of a request that was redirected once already: no fault befalls it."""
CHUNK = b" " * (1 << 16)
BYTE_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: Kind
    times: int | None = None
    """Requests that it befalls; None: all."""
    status: int = 503
    retry_after_s: float | None = None
    """Sent as a Retry-After header; of `status`."""
    as_date: bool = False
    """Retry-After as a date, which has whole seconds."""
    seconds: float = 30.0
    """How long the slow ones last."""
    num_bytes: int = 64 << 20
    """Of `huge_body`."""


async def instead(fault: Fault, request: web.Request, *, service: str) -> web.StreamResponse | None:
    """What is sent in the place of the answer; None: the answer, perhaps changed by `changed`."""
    match fault.kind:
        case "status":
            return _status(fault)
        case "error_body":
            return web.json_response(ERROR_BODIES.get(service, {"error": "no"}))
        case "slow_headers":
            await asyncio.sleep(fault.seconds)
            return None
        case "redirect":
            raise web.HTTPFound(request.url.update_query({HOP: "1"}))
        case "redirect_loop":
            raise web.HTTPFound(request.url)
        case "wrong_type":
            return _wrong_type(service)
        case "slow_body":
            return await _drip(request, seconds=fault.seconds)
        case "huge_body":
            return await _flood(request, num_bytes=fault.num_bytes)
        case "reset":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        case _:
            return None


def changed(fault: Fault, response: web.Response) -> web.Response:
    """The good answer, cut in the middle if that is the fault."""
    if fault.kind == "truncated" and isinstance(response.body, bytes):
        response.body = response.body[: len(response.body) // 2]
    return response


def _status(fault: Fault) -> web.Response:
    headers = {}
    if fault.retry_after_s is not None:
        at = formatdate(time.time() + fault.retry_after_s, usegmt=True)
        headers["Retry-After"] = at if fault.as_date else f"{fault.retry_after_s:g}"
    body = {"message": f"fault {fault.status}"}
    return web.json_response(body, status=fault.status, headers=headers)


def _wrong_type(service: str) -> web.Response:
    """What it is not: no JSON of an API, no image, no text of a page."""
    if service == "page":
        return web.Response(body=b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", content_type="text/html")
    kind = "image/png" if service == "img" else "application/json"
    return web.Response(body=b"<html><body>Please log in</body></html>", content_type=kind)


async def _drip(request: web.Request, *, seconds: float) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await response.write(b" ")
        await asyncio.sleep(BYTE_PAUSE_S)
    return response


async def _flood(request: web.Request, *, num_bytes: int) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(num_bytes // len(CHUNK)):
        await response.write(CHUNK)
    return response
