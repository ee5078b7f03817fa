"""Three image providers on loopback, in the shapes of the real ones, with faults on demand.

    async with ImageServer(faults=["429", "blocked"]) as server:
        server.base_url("openai")

Each request uses up one fault ("" is none). A request that the provider would not understand is
answered with its own kind of HTTP 400, so a client that sends the wrong shape cannot pass. The
picture is one colour, a function of the prompt and the references. Events: (path, body).
"""

import asyncio
import base64
import hashlib
import io
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from PIL import Image

from tests.fakes.loopback import LoopbackServer

KEY = "test-key"
PREFIXES = {"openai": "/v1", "gemini": "/v1beta", "seedream": "/api/v3"}
SLOW_S = 30.0
HUGE_BYTES = 3 << 20


def painted(prompt: str, references: Iterable[bytes], *, media: str = "PNG") -> bytes:
    digest = hashlib.sha256(b"\0".join([prompt.encode(), *references])).digest()
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (digest[0], digest[1], digest[2])).save(buffer, format=media)
    return buffer.getvalue()


class ImageServer(LoopbackServer):
    def __init__(self, *, faults: Iterable[str] = (), reply_with: str = "b64_json") -> None:
        """`reply_with`: b64_json, url, data_url (OpenAI and Seedream); markdown (Gemini)."""
        self._faults = list(faults)
        self._reply_with = reply_with
        self._files: dict[str, bytes] = {}
        self.events: list[tuple[str, Any]] = []

    def routes(self) -> list[web.RouteDef]:
        gemini = f"{PREFIXES['gemini']}/models/{{model}}:generateContent"
        return [
            *(
                web.post(f"{PREFIXES[name]}/images/{{verb}}", self._images)
                for name in ("openai", "seedream")
            ),
            web.post(gemini, self._gemini),
            web.get("/files/{name}", self._file),
        ]

    def base_url(self, backend: str) -> str:
        return f"http://127.0.0.1:{self._port}{PREFIXES[backend]}"

    async def _images(self, request: web.Request) -> web.StreamResponse:
        body, is_ark = await request.json(), request.path.startswith(PREFIXES["seedream"])
        self.events.append((request.path, body))
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return _error(401, "invalid_api_key", "no such key")
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "blocked":
            code = "OutputImageSensitiveContentDetected" if is_ark else "moderation_blocked"
            return _error(400, code, "the request was rejected by the safety system")
        if response := await _common_fault(fault):
            return response
        try:
            references = _ark_references(body) if is_ark else _openai_references(request, body)
        except (LookupError, TypeError, ValueError) as error:
            return _error(400, "invalid_request_error", repr(error))
        data = _faulty(fault, painted(body["prompt"], references))
        item = self._item(request, data)
        if fault == "no_image":
            item = {}
        if fault == "bad_base64":
            item = {"b64_json": "this is no base64!"}
        usage = {"input_tokens": 10, "output_tokens": 272, "total_tokens": 282}
        return web.json_response({"created": 1, "data": [item], "usage": usage})

    def _item(self, request: web.Request, data: bytes) -> dict[str, str]:
        if self._reply_with == "url":
            name = hashlib.sha256(data).hexdigest()
            self._files[name] = data
            return {"url": f"http://{request.host}/files/{name}", "size": "16x16"}
        encoded = base64.b64encode(data).decode()
        if self._reply_with == "data_url":
            return {"url": f"data:image/png;base64,{encoded}"}
        return {"b64_json": encoded}

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.events.append((request.path, None))
        # Object stores often call everything an octet stream.
        return web.Response(
            body=self._files[request.match_info["name"]], content_type="application/octet-stream"
        )

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.events.append((request.path, body))
        if request.headers.get("x-goog-api-key") != KEY:
            return _google_error(403, "PERMISSION_DENIED")
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "429":
            return _google_error(429, "RESOURCE_EXHAUSTED")
        if fault == "blocked":
            return web.json_response({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})
        if fault == "unsafe":
            return _candidate([], finish_reason="IMAGE_SAFETY")
        if response := await _common_fault(fault):
            return response
        try:
            prompt, references = _gemini_content(body)
        except (LookupError, TypeError, ValueError):
            return _google_error(400, "INVALID_ARGUMENT")
        if fault == "no_image":
            return _candidate([{"text": "I cannot draw that."}], finish_reason="NO_IMAGE")
        data = _faulty(fault, painted(prompt, references))
        encoded = "%%%" if fault == "bad_base64" else base64.b64encode(data).decode()
        if self._reply_with == "markdown":
            text = f"Here it is:\n\n![image](data:image/png;base64,{encoded})\n"
            return _candidate([{"text": text}])
        mime_type = "image/jpeg" if fault == "wrong_type" else "image/png"
        draft = base64.b64encode(painted("draft", ())).decode()
        return _candidate(
            [
                {"inlineData": {"mimeType": "image/png", "data": draft}, "thought": True},
                {"text": "Here it is."},
                {"inlineData": {"mimeType": mime_type, "data": encoded}, "thoughtSignature": "s"},
            ]
        )


async def _common_fault(fault: str) -> web.StreamResponse | None:
    match fault:
        case "429":
            response = _error(429, "rate_limit_exceeded", "slow down")
            response.headers["Retry-After"] = "0"
            return response
        case "500":
            return _error(500, "server_error", "try again")
        case "not_json":
            return web.Response(text="<html>bad gateway</html>")
        case "slow":
            await asyncio.sleep(SLOW_S)
    return None


def _faulty(fault: str, data: bytes) -> bytes:
    match fault:
        case "huge":
            return data + bytes(HUGE_BYTES)
        case "no_picture":
            return b"%PDF-1.7 no picture at all"
    return data


def _openai_references(request: web.Request, body: dict[str, Any]) -> list[bytes]:
    verb = request.match_info["verb"]
    allowed = {"model", "prompt", "n", "size", "quality", "output_format", "background"}
    allowed |= {"images"} if verb == "edits" else set()
    if extra := set(body) - allowed:
        raise ValueError(f"unknown parameter: {sorted(extra)}")
    if verb != "edits":
        return []
    if not 1 <= len(body["images"]) <= 16:
        raise ValueError("between 1 and 16 images")
    return [_from_data_url(image["image_url"]) for image in body["images"]]


def _ark_references(body: dict[str, Any]) -> list[bytes]:
    images = body.get("image", [])
    if len(images) > 14:
        raise ValueError("at most 14 images")
    return [_from_data_url(image) for image in images]


def _gemini_content(body: dict[str, Any]) -> tuple[str, list[bytes]]:
    if "IMAGE" not in body["generationConfig"]["responseModalities"]:
        raise ValueError("no image was asked for")
    parts = body["contents"][0]["parts"]
    pictures = [part["inlineData"] for part in parts if "inlineData" in part]
    for picture in pictures:
        _check_media(picture["mimeType"], base64.b64decode(picture["data"], validate=True))
    return parts[-1]["text"], [base64.b64decode(picture["data"]) for picture in pictures]


def _from_data_url(url: str) -> bytes:
    head, _, encoded = url.partition(";base64,")
    data = base64.b64decode(encoded, validate=True)
    _check_media(head.removeprefix("data:"), data)
    return data


def _check_media(media_type: str, data: bytes) -> None:
    found = Image.open(io.BytesIO(data)).get_format_mimetype()
    if found != media_type:
        raise ValueError(f"{media_type} was said, {found} was sent")


def _error(status: int, code: str, message: str) -> web.Response:
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return web.json_response(body, status=status)


def _google_error(status: int, name: str) -> web.Response:
    body = {"error": {"code": status, "message": name.lower(), "status": name}}
    return web.json_response(body, status=status)


def _candidate(parts: list[dict[str, Any]], *, finish_reason: str = "STOP") -> web.Response:
    candidate = {
        "content": {"role": "model", "parts": parts},
        "finishReason": finish_reason,
        "index": 0,
        "safetyRatings": [],
    }
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 1290, "totalTokenCount": 1300}
    return web.json_response({"candidates": [candidate], "usageMetadata": usage})
