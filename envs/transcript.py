"""What the policy has been shown so far: token ids that only grow, images and their IMG_### ids.

In: completions as sampled, tool results as fetched. Out: the context of the next turn. An image is
named when it is first shown, and equal content keeps its name. What does not fit the room given is
left out: a text is cut between two tokens, an image is shown whole or not at all.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from core.errors import DataError
from core.records import FoundImage, SeenImage, ToolResult
from envs.chat import ChatFormat
from envs.prompts import NO_IMAGES

logger = logging.getLogger(__name__)

MAX_CAPTION_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Response:
    """One tool response, ready to be appended."""

    parts: list[str | SeenImage] = field(default_factory=list)
    images: list[SeenImage] = field(default_factory=list)
    named: dict[str, tuple[str, FoundImage]]
    repairs: set[str] = field(default_factory=set)


class Transcript:
    """The growing context of one episode."""

    def __init__(self, chat: ChatFormat, *, system: str, prompt: str) -> None:
        self._chat = chat
        self._engine_ids = chat.start(system=system, prompt=prompt)
        self._images: list[SeenImage] = []
        self._named: dict[str, tuple[str, FoundImage]] = {}
        """By content digest: ("IMG_001", image), in order of first sight."""

    @property
    def engine_ids(self) -> tuple[int, ...]:
        return tuple(self._engine_ids)

    @property
    def images(self) -> tuple[SeenImage, ...]:
        """Every image of the context, in order; one that was shown twice stands here twice."""
        return tuple(self._images)

    @property
    def shown(self) -> tuple[tuple[str, FoundImage], ...]:
        return tuple(self._named.values())

    @property
    def num_tokens(self) -> int:
        """Length of the expanded context."""
        return len(self._engine_ids) + sum(image.num_tokens - 1 for image in self._images)

    def add_completion(self, token_ids: Sequence[int]) -> None:
        self._engine_ids += token_ids

    def add_note(self, note: str, *, max_tokens: int) -> bool:
        """A user turn of trusted words alone. False, and nothing added, when it does not fit."""
        ids = self._chat.observe([], note=note, closed=self._closed)
        if len(ids) > max_tokens:
            return False
        self._engine_ids += ids
        return True

    def add_response(
        self,
        result: ToolResult,
        found: Sequence[tuple[FoundImage, bytes]],
        *,
        note: str,
        max_tokens: int,
    ) -> tuple[str, ...] | None:
        """A tool response and a trusted note after it, in at most `max_tokens` expanded tokens.

        `found` are the images to show, all different, with their bytes. Returns the names of what
        was left out ("text_cut", "image_left_out"); None, and nothing added, when not even the
        frame fits.
        """
        frame = self._chat.observe([""], note=note, closed=self._closed)
        room = max_tokens - len(frame)
        while room >= 0:
            response = self._fit(result.text, found, room=room)
            ids = self._chat.observe(response.parts, note=note, closed=self._closed)
            excess = len(ids) + sum(i.num_tokens - 1 for i in response.images) - max_tokens
            if excess <= 0:
                self._engine_ids += ids
                self._images += response.images
                self._named = response.named
                return tuple(sorted(response.repairs))
            room -= excess  # texts that meet may take more tokens together than apart
        return None

    @property
    def _closed(self) -> bool:
        return self._engine_ids[-1] == self._chat.stop_id

    def _fit(self, text: str, found: Sequence[tuple[FoundImage, bytes]], *, room: int) -> _Response:
        """As much of a result as fits `room` tokens: the text first, then image by image."""
        response = _Response(named=dict(self._named))
        cut = self._chat.cut_text(text, max_tokens=room)
        if cut:
            response.parts.append(cut)
            room -= len(self._chat.encode_text(cut))
        if cut != text:
            response.repairs.add("text_cut")
        for image, data in found:
            room -= self._show(image, data, response, room=room)
        if not response.parts:
            response.parts.append(NO_IMAGES if found and room > len(NO_IMAGES) else "")
        return response

    def _show(self, image: FoundImage, data: bytes, response: _Response, *, room: int) -> int:
        """Add one line `IMG_001: title <image>`; returns the tokens that it takes."""
        digest = image.ref.sha256
        name, _ = response.named.get(digest, (f"IMG_{len(response.named) + 1:03d}", image))
        title = " ".join(image.title.split())[:MAX_CAPTION_CHARS]
        line = f"{name}: {title} " if not response.parts else f"\n{name}: {title} "
        try:
            seen = self._chat.see(image.ref, data)
        except DataError as error:
            logger.warning("image=%s is left out: %s", digest, error)
            response.repairs.add("image_left_out")
            return 0
        cost = len(self._chat.encode_text(line)) + 2 + seen.num_tokens
        if cost > room:
            response.repairs.add("image_left_out")
            return 0
        response.parts.extend([line, seen])
        response.images.append(seen)
        response.named.setdefault(digest, (name, image))
        return cost
