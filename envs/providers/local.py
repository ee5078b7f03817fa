"""A corpus on this disk whose images live elsewhere than the run's: found ones are copied."""

import asyncio

from core.errors import InfraError, ToolError
from core.protocols import ImageStore
from core.records import FoundImage
from envs.provider import Fetched, ImageSearch


class CopiedImages:
    """Implements envs.provider.ImageSearch. Equal bytes have equal names, so copying is safe."""

    def __init__(self, source: ImageSearch, *, theirs: ImageStore, ours: ImageStore) -> None:
        self._source = source
        self._theirs = theirs
        self._ours = ours

    @property
    def version(self) -> str:
        return self._source.version

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        """Raises ToolError when the corpus lists an image that is not there any more."""
        found = await self._source.image_search(query, k=k)
        await asyncio.to_thread(self._copy, found.value)
        return found

    def _copy(self, images: tuple[FoundImage, ...]) -> None:
        for image in images:
            try:
                data = self._theirs.get(image.ref)
            except InfraError as error:
                raise ToolError(f"the corpus is damaged: {error}; build it again") from error
            self._ours.put(data)
