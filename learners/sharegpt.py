"""ShareGPT rows with images (LLaMA-Factory's format, e.g. sft_data.json) -> fine-tuning samples.

    [{"messages": [{"role": "system", "content": ".."}, {"role": "user", "content": ".."},
                   {"role": "assistant", "content": "<think>..</think><tool_call>..</tool_call>"},
                   {"role": "user", "content": "<tool_response>..<image>..</tool_response>"}, ..],
      "images": ["a.jpg", ..]}]

Tokens come from `ChatFormat`, so they are those that a rollout of the same conversation would have;
only assistant turns are trained on. Paths are relative to the JSON file. User text is untrusted.
Fails with DataError that names file, row, field and mend.
"""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from core.errors import DataError
from core.protocols import ImageStore
from core.records import RolloutId, SeenImage, TrainingSample
from envs.chat import START, ChatFormat
from learners.sft import PLAIN

logger = logging.getLogger(__name__)

_IMAGE = "<image>"
_RESPONSE = re.compile(
    r"((?:\s*<image>)*)\s*<tool_response>\n?(.*?)\n?</tool_response>((?:\s*<image>)*)\s*", re.DOTALL
)
"""Images before and after it, the text inside: a rollout shows all of them inside."""


class _Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str


class _Row(BaseModel):
    messages: list[_Message]
    images: list[str] = []


_ROWS = TypeAdapter(list[_Row])


def load_sharegpt(
    path: Path, *, chat: ChatFormat, images: ImageStore, max_tokens: int
) -> list[TrainingSample]:
    """One sample per row; rows longer than `max_tokens` are left out and counted in the log."""
    samples = []
    rows = _read_rows(path)
    for number, row in enumerate(rows):
        sample = _RowBuilder(row, where=f"{path}: row {number}", chat=chat).build(
            number, folder=path.parent, images=images
        )
        if len(sample.token_ids) <= max_tokens:
            samples.append(sample)
    if len(samples) < len(rows):
        left_out = len(rows) - len(samples)
        logger.warning("%s: %s rows are longer than %s tokens", path, left_out, max_tokens)
    return samples


def _read_rows(path: Path) -> list[_Row]:
    try:
        return _ROWS.validate_python(json.loads(path.read_bytes()))
    except OSError as error:
        raise DataError(f"sft.data {path} cannot be read; give a ShareGPT JSON file") from error
    except ValidationError as error:
        first = error.errors()[0]
        row, *field = first["loc"] or ("the top level",)
        name = ".".join(str(part) for part in field) or "it"
        raise DataError(f"{path}: row {row}: {name}: {first['msg']}; mend that row") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(f"sft.data {path} is not JSON: {error}") from error


class _RowBuilder:
    """Grows the token ids and the loss mask of one conversation."""

    def __init__(self, row: _Row, *, where: str, chat: ChatFormat) -> None:
        self._row = row
        self._where = where
        self._chat = chat
        self._token_ids: list[int] = []
        self._loss_mask: list[int] = []

    def build(self, number: int, *, folder: Path, images: ImageStore) -> TrainingSample:
        seen = [self._see(folder / name, images) for name in self._row.images]
        system, prompt, turns = self._split()
        unused = iter(seen)
        self._append(self._chat.start(system=system, prompt=prompt), trained=False)
        for reply, following in turns:
            self._append(self._reply_ids(reply), trained=True)
            if following is not None:
                self._observe(following, unused)
        if left := len(list(unused)):
            raise self._error("images", f"{left} have no <image> in the messages")
        length = len(self._token_ids)
        mask = tuple(self._loss_mask)
        return TrainingSample(
            rollout_id=RolloutId(ordinal=number, index=0),
            token_ids=tuple(self._token_ids),
            loss_mask=mask,
            logprobs=(0.0,) * length,
            advantages=tuple(float(bit) for bit in mask),
            policy_versions=tuple(bit - 1 for bit in mask),
            images=tuple(seen),
            sampling=PLAIN,
        )

    def _split(self) -> tuple[str, str, list[tuple[str, str | None]]]:
        """System text, first prompt, then (assistant turn, user turn after it or None)."""
        messages = list(self._row.messages)
        system = messages.pop(0).content if messages and messages[0].role == "system" else ""
        roles = [message.role for message in messages]
        if len(roles) < 2 or roles != (["user", "assistant"] * len(roles))[: len(roles)]:
            raise self._error("messages", f"user and assistant must take turns, not {roles}")
        prompt, *rest = [message.content for message in messages]
        if _IMAGE in prompt:
            raise self._error("messages", "the first prompt shows an image; only tools may")
        replies = rest[0::2]
        followings: list[str | None] = [*rest[1::2], None]
        return system, prompt, list(zip(replies, followings, strict=False))

    def _observe(self, content: str, unused: Iterator[SeenImage]) -> None:
        """A user turn after the first: a tool's response, or a note such as a format reminder."""
        response = _RESPONSE.fullmatch(content)
        if response is None and "<tool_response>" in content:
            raise self._error("messages", "text stands beside a <tool_response>; move it inside")
        texts = ("".join(response.groups()) if response else content).split(_IMAGE)
        shown: list[SeenImage] = []
        parts: list[str | SeenImage] = [texts[0]]
        for text in texts[1:]:
            image = next(unused, None)
            if image is None:
                raise self._error("images", "there are fewer than <image> in the messages")
            shown.append(image)
            parts += [image, text]
        if response or shown:
            ids = self._chat.observe(parts)
        else:
            ids = self._chat.observe((), note=self._plain(content))
        self._append(self._chat.expand(ids, shown), trained=False)

    def _reply_ids(self, content: str) -> list[int]:
        return [*self._chat.encode_trusted(self._plain(content)), self._chat.stop_id]

    def _plain(self, content: str) -> str:
        """Text that may hold the protocol's tags, but no frame of the chat."""
        start_ids = self._chat.encode_trusted(START)
        forbidden = {*start_ids, self._chat.stop_id, *self._chat.banned_ids}
        if "<|" in content and forbidden & set(self._chat.encode_trusted(content)):
            raise self._error("messages", "a control token stands in the text; remove it")
        return content

    def _append(self, ids: list[int], *, trained: bool) -> None:
        self._token_ids += ids
        self._loss_mask += [int(trained)] * len(ids)

    def _see(self, path: Path, images: ImageStore) -> SeenImage:
        try:
            data = path.read_bytes()
        except OSError as error:
            message = f"{path} cannot be read; paths are relative to the JSON file"
            raise self._error("images", message) from error
        try:
            return self._chat.see(images.put(data), data)
        except DataError as error:
            raise self._error("images", f"{path}: {error}; replace it") from error

    def _error(self, field: str, problem: str) -> DataError:
        return DataError(f"{self._where}: {field}: {problem}")
