"""An image store in memory."""

import hashlib
import io
from collections.abc import Hashable, Mapping
from typing import Any

from PIL import Image

from core.errors import DataError, InfraError
from core.records import ImageRef
from tests.fakes.failures import FailureScript

_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


class MemoryImageStore:
    """Implements core.protocols.ImageStore; `fail_times` is keyed by digest and concerns `get`.

    Events: ("put", sha256) and ("get", sha256).
    """

    def __init__(self, *, fail_times: Mapping[Hashable, int] | None = None) -> None:
        self._bytes: dict[str, bytes] = {}
        self._failures = FailureScript(fail_times)
        self.events: list[tuple[Any, ...]] = []

    def put(self, data: bytes) -> ImageRef:
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.verify()
                media_type, (width, height) = _MEDIA_TYPES[image.format or ""], image.size
        except (OSError, SyntaxError, KeyError) as error:
            raise DataError(f"{len(data)} bytes are no PNG, JPEG or WebP image") from error
        sha256 = hashlib.sha256(data).hexdigest()
        self._bytes[sha256] = data
        self.events.append(("put", sha256))
        return ImageRef(sha256=sha256, media_type=media_type, width=width, height=height)

    def get(self, ref: ImageRef) -> bytes:
        self.events.append(("get", ref.sha256))
        if ref.sha256 not in self._bytes or self._failures.should_fail(ref.sha256):
            raise InfraError(f"image {ref.sha256} is not in the store")
        return self._bytes[ref.sha256]
