"""How three families of image APIs are asked, and what they say: pure, no network.

In: a prompt and its references as pictures, in order. Out: an `HttpRequest`; and of its response
the image's bytes, or the address that they are to be fetched from. A reply without a usable image
is a `RenderError` that names the reason in `error_type`; one that was blocked is not retryable.

openai    POST {base}/images/generations, or /images/edits (JSON, data URLs) with references
gemini    POST {base}/models/{model}:generateContent, references as labelled parts before the prompt
seedream  POST {base}/images/generations (Volcengine Ark)
"""

import base64
import binascii
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from PIL import Image

from core.chat_completions import Picture
from core.endpoint import HttpRequest, error_detail
from core.errors import RenderError
from core.protocols import HttpResponse
from core.sections.image_models import ImageApiConfig
from envs.images import FORMATS, MAX_PIXELS

BASE_URLS: Final = {
    "openai": "https://api.openai.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "seedream": "https://ark.cn-beijing.volces.com/api/v3",
}
_EXPECTED: Final = frozenset({200, 400})
"""A 400 is read: it may say that the prompt was blocked."""
_DATA_URL: Final = re.compile(r"data:image/[\w.+-]+;base64,([A-Za-z0-9+/=\s]+)")
_BLOCKED_WORDS: Final = ("moderation", "content_policy", "safety", "sensitive")
_AROUND_BYTES: Final = 1 << 16
"""Of a reply, beside the image in base64."""
_NO_FAULT: Final = frozenset({"STOP", "MAX_TOKENS", "NO_IMAGE", "OTHER", "None"})
"""Finish reasons of Gemini after which asking again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAddress:
    """Where the reply says that the image lies; written by a stranger."""

    url: str


class ImageApi(Protocol):
    def request(self, prompt: str, references: Sequence[Picture]) -> HttpRequest: ...

    def read(self, response: HttpResponse) -> bytes | ImageAddress:
        """Raises RenderError."""
        ...


class OpenAIImages:
    """Implements `ImageApi`; also what many compatible servers speak."""

    def __init__(self, config: ImageApiConfig, *, api_key: str) -> None:
        self._config = config
        self._base_url = (config.base_url or BASE_URLS["openai"]).rstrip("/")
        self._headers = _bearer(api_key)

    def request(self, prompt: str, references: Sequence[Picture]) -> HttpRequest:
        body: dict[str, Any] = {"model": self._config.model, "prompt": prompt, "n": 1}
        if self._config.size:
            body["size"] = self._config.size
        if references:
            body["images"] = [{"image_url": data_url(picture)} for picture in references]
        verb = "edits" if references else "generations"
        body |= self._config.extra_body
        return _post(f"{self._base_url}/images/{verb}", self._headers, body, self._config)

    def read(self, response: HttpResponse) -> bytes | ImageAddress:
        return _read_data_list(response)


class SeedreamImages:
    """Implements `ImageApi` for Volcengine Ark."""

    def __init__(self, config: ImageApiConfig, *, api_key: str) -> None:
        self._config = config
        self._base_url = (config.base_url or BASE_URLS["seedream"]).rstrip("/")
        self._headers = _bearer(api_key)

    def request(self, prompt: str, references: Sequence[Picture]) -> HttpRequest:
        body: dict[str, Any] = {
            "model": self._config.model,
            "prompt": prompt,
            "response_format": "b64_json",
            "watermark": False,
            "sequential_image_generation": "disabled",
        }
        if self._config.size:
            body["size"] = self._config.size
        if references:
            body["image"] = [data_url(picture) for picture in references]
        body |= self._config.extra_body
        return _post(f"{self._base_url}/images/generations", self._headers, body, self._config)

    def read(self, response: HttpResponse) -> bytes | ImageAddress:
        return _read_data_list(response)


class GeminiImages:
    """Implements `ImageApi` for generateContent."""

    def __init__(self, config: ImageApiConfig, *, api_key: str) -> None:
        self._config = config
        base_url = (config.base_url or BASE_URLS["gemini"]).rstrip("/")
        self._url = f"{base_url}/models/{config.model}:generateContent"
        self._headers = {"x-goog-api-key": api_key} if api_key else {}

    def request(self, prompt: str, references: Sequence[Picture]) -> HttpRequest:
        parts: list[dict[str, Any]] = []
        for place, picture in enumerate(references, start=1):
            parts.append({"text": f"Reference image {place}:"})
            data = base64.b64encode(picture.data).decode()
            parts.append({"inlineData": {"mimeType": picture.media_type, "data": data}})
        parts.append({"text": prompt})
        named = {"aspectRatio": self._config.aspect_ratio, "imageSize": self._config.size}
        image_config = {name: value for name, value in named.items() if value}
        generation: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
        if image_config:
            generation["imageConfig"] = image_config
        body = {"contents": [{"role": "user", "parts": parts}], "generationConfig": generation}
        return _post(self._url, self._headers, body | self._config.extra_body, self._config)

    def read(self, response: HttpResponse) -> bytes | ImageAddress:
        """The last image that is not a draft of the model's thinking."""
        value = _json(response)
        feedback = _mapping(value.get("promptFeedback"))
        if reason := feedback.get("blockReason"):
            raise _blocked(str(reason))
        candidates = value.get("candidates")
        first = _mapping(candidates[0]) if isinstance(candidates, list) and candidates else {}
        parts = _mapping(first.get("content")).get("parts")
        texts = []
        for part in reversed(parts if isinstance(parts, list) else []):
            fields = _mapping(part)
            if fields.get("thought"):
                continue
            inline = _mapping(fields.get("inlineData") or fields.get("inline_data"))
            if isinstance(inline.get("data"), str):
                return _decode(inline["data"])
            texts.append(str(fields.get("text") or ""))
        for text in texts:
            if found := _DATA_URL.search(text):  # how some gateways hand the image on
                return _decode(found[1])
        reason = str(first.get("finishReason"))
        if reason in _NO_FAULT:
            said = " ".join(filter(None, reversed(texts)))[:200]
            raise RenderError(f"no image came back ({reason}): {said}", error_type="NO_IMAGE")
        raise _blocked(reason)


def data_url(picture: Picture) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"


def check_image(data: bytes) -> bytes:
    """The bytes, if they begin like an image that we keep. Raises RenderError: ask again."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        message = f"{len(data)} bytes came back that are no PNG, JPEG or WebP image"
        raise RenderError(message, error_type="BadImage") from error
    if width * height > MAX_PIXELS:
        message = f"an image of {width} x {height} pixels is over {MAX_PIXELS} pixels"
        raise RenderError(message, retryable=False, error_type="BadImage")
    return data


def _post(
    url: str, headers: Mapping[str, str], body: Mapping[str, Any], config: ImageApiConfig
) -> HttpRequest:
    return HttpRequest(
        method="POST",
        url=url,
        headers=headers,
        json_body=dict(body),
        max_bytes=(config.max_image_mib << 20) * 4 // 3
        + (1 << 16),  # base64, and what is around it
        expected=_EXPECTED,
    )


def _bearer(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _read_data_list(response: HttpResponse) -> bytes | ImageAddress:
    """{"data": [{"b64_json": ".."} or {"url": ".."}]}."""
    value = _json(response)
    items = value.get("data")
    first = _mapping(items[0]) if isinstance(items, list) and items else {}
    if error := first.get("error") or value.get("error"):
        _refuse(str(_mapping(error).get("code")), str(_mapping(error).get("message")))
    if isinstance(encoded := first.get("b64_json"), str):
        return _decode(encoded)
    if isinstance(url := first.get("url"), str):
        inline = _DATA_URL.fullmatch(url)
        return _decode(inline[1]) if inline else ImageAddress(url=url)
    raise RenderError("no image came back", error_type="NO_IMAGE")


def _json(response: HttpResponse) -> Mapping[str, Any]:
    try:
        value = json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise RenderError("the reply is not JSON", error_type="BadReply") from error
    if not isinstance(value, Mapping):
        raise RenderError("the reply is not a JSON object", error_type="BadReply")
    if response.status == 400:
        code = str(_mapping(value.get("error")).get("code"))
        _refuse(code, f"HTTP 400: {error_detail(response.body)}")
    return value


def _refuse(code: str, message: str) -> None:
    if any(word in code.lower() for word in _BLOCKED_WORDS):
        raise _blocked(code)
    raise RenderError(f"the request was refused: {message}"[:300], retryable=False)


def _blocked(reason: str) -> RenderError:
    return RenderError(
        f"the provider blocked the picture ({reason})", retryable=False, error_type=reason[:60]
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _decode(encoded: str) -> bytes:
    _, _, bare = encoded.rpartition(",")  # a data URL where plain base64 was due
    try:
        data = base64.b64decode("".join(bare.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RenderError("the image is not valid base64", error_type="BadBase64") from error
    return check_image(data)
