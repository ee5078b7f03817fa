"""Tokens <-> protocol: the one token builder that rollout, SFT and learner share.

In: trusted frames (system prompt, notes), untrusted text (task prompts, the web), images as bytes.
Out: token ids in the chat shape of the Qwen family, and the vision tower's inputs. A conversation
grows by appending only: what the policy sampled is never decoded and encoded again, so every turn's
ids begin with the ids of the turn before it.

    <|im_start|>system\\n..<|im_end|>\\n<|im_start|>user\\n..<|im_end|>\\n<|im_start|>assistant\\n
    (sampled)<|im_end|>\\n<|im_start|>user\\n<tool_response>\\n..\\n</tool_response><|im_end|>\\n..

Untrusted text never becomes a control token or a tag of the protocol (`envs.untrusted`): a tag in
it gets a space after its first character ("< think>"), and all other text stays as it was. An
image is one <|vision_start|><|image_pad|><|vision_end|> in engine ids, and has `num_tokens` pads
when expanded.

Raises ConfigError for a folder that is no Qwen3-VL model, DataError for an image that cannot be
shown, FidelityError when an image is not what the policy saw.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoImageProcessor, AutoTokenizer

from core.errors import ConfigError, DataError, FidelityError
from core.protocols import ImageStore
from core.records import ImageRef, SeenImage
from envs.images import decode_rgb
from envs.untrusted import TagBreaker

START, STOP = "<|im_start|>", "<|im_end|>"
IMAGE_PAD = "<|image_pad|>"
IMAGE = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"
PLACEHOLDERS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", IMAGE_PAD, "<|video_pad|>")
"""Never sampled; those that the tokenizer knows are `banned_ids`."""
TAGS = tuple(
    f"<{slash}{name}>"
    for name in ("think", "tool_call", "tool_response", "answer")
    for slash in ("", "/")
)
"""The protocol's tags; tokens of their own in some tokenizers, plain text in others."""
MAX_CACHED_IMAGES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionInputs:
    """What the vision tower is given for the images of one or more sequences, in order."""

    pixel_values: np.ndarray
    """[num_patches, patch_dim] float32, all images one after another."""
    grid_thw: np.ndarray
    """[num_images, 3] int64."""


class ChatFormat:
    """The chat format of one model folder. Pure: equal inputs give equal ids and pixels."""

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        vocab: dict[str, int] = tokenizer.get_vocab()
        missing = [token for token in (START, STOP, IMAGE_PAD) if token not in vocab]
        if missing:
            raise ConfigError(f"the tokenizer has no {' '.join(missing)}; use a Qwen3-VL model")
        self._control = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or re.fullmatch(r"<.+>", token.content)
        }
        self._control_ids = frozenset(self._control.values())
        self._split = re.compile(f"({_any_of(self._control)})")
        strange = [token for token in self._control if not token.startswith("<")]
        if strange:
            raise ConfigError(f"the tokenizer has control tokens of another family: {strange}")
        self._untrusted = TagBreaker([*self._control, *TAGS])
        self._reply = TagBreaker([token for token in self._control if token not in TAGS])
        self._seen: OrderedDict[str, SeenImage] = OrderedDict()
        self.stop_id: int = vocab[STOP]
        """Ends a turn."""
        self.image_id: int = vocab[IMAGE_PAD]
        """Stands for an image, or for one patch group of it once expanded."""
        self.banned_ids = tuple(sorted(vocab[t] for t in PLACEHOLDERS if t in vocab))

    @classmethod
    def load(cls, path: str | Path) -> "ChatFormat":
        """From a Hugging Face folder or hub id. Raises ConfigError.

        The image processor's backend is the one that transformers picks by default, because that
        is what the engine uses: backends differ in the last digits of a resized image.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            image_processor = AutoImageProcessor.from_pretrained(path)
        except (OSError, ValueError, KeyError) as error:
            message = f"policy.path {str(path)!r} holds no tokenizer and image processor"
            raise ConfigError(f"{message}; give a Qwen3-VL folder ({error})") from error
        return cls(tokenizer, image_processor)

    def start(self, *, system: str, prompt: str) -> list[int]:
        """The first context: trusted system text, untrusted task prompt, assistant header."""
        return self.encode_trusted(
            f"{START}system\n{system}{STOP}\n"
            f"{START}user\n{self._untrusted.break_tags(prompt)}{STOP}\n{START}assistant\n"
        )

    def observe(
        self, parts: Sequence[str | SeenImage], *, note: str = "", closed: bool = True
    ) -> list[int]:
        """What follows a completion: one user turn and the next assistant header.

        `parts` is the tool's response, its text untrusted; () when no tool ran. `note` is trusted
        text after it. `closed` is False when the completion was cut before its stop token, which
        is then added here.
        """
        pieces = []
        if parts:
            pieces.append(f"<tool_response>\n{self._render(parts)}\n</tool_response>")
        if note:
            pieces.append(note)
        frame = f"\n{START}user\n" + "\n".join(pieces) + f"{STOP}\n{START}assistant\n"
        return self.encode_trusted(frame if closed else STOP + frame)

    def encode_text(self, text: str) -> list[int]:
        """Untrusted text: no control token and no tag comes out of it."""
        return self.encode_trusted(self._untrusted.break_tags(text))

    def encode_reply(self, text: str) -> list[int]:
        """A completion that came as text: tags of the protocol become the tokens they name, as if
        they had been sampled; tokens of the frame and of images do not."""
        return self.encode_trusted(self._reply.break_tags(text))

    def encode_trusted(self, text: str) -> list[int]:
        """Our own text, e.g. a scripted completion: tags in it become the tokens they name."""
        ids: list[int] = []
        for number, piece in enumerate(self._split.split(text)):
            if number % 2:  # re.split puts what the group matched at odd places
                ids.append(self._control[piece])
            else:
                plain = self._tokenizer.encode(piece, add_special_tokens=False)
                ids += [token for token in plain if token not in self._control_ids]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Every token as text, control tokens included."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def cut_text(self, text: str, *, max_tokens: int) -> str:
        """The longest beginning of untrusted text, in whole tokens, that fits."""
        ids = self.encode_text(text)
        if len(ids) <= max_tokens:
            return text
        for size in range(max_tokens, 0, -1):
            start = self.decode(ids[:size]).rstrip("\ufffd")  # half a character
            if len(self.encode_text(start)) <= max_tokens:
                return start
        return ""

    def see(self, ref: ImageRef, data: bytes) -> SeenImage:
        """The image as the processor shows it. Raises DataError."""
        known = self._seen.get(ref.sha256)
        if known is None:
            pixels, grid = self._process(data)
            known = _seen_image(ref, pixels, grid, merge_size=self._image_processor.merge_size)
            self._seen[ref.sha256] = known
            if len(self._seen) > MAX_CACHED_IMAGES:
                self._seen.popitem(last=False)
        self._seen.move_to_end(ref.sha256)
        return known

    def expand(self, engine_ids: Sequence[int], images: Sequence[SeenImage]) -> list[int]:
        """One placeholder -> `num_tokens` placeholders. Raises FidelityError on another count."""
        num_places = sum(token == self.image_id for token in engine_ids)
        if num_places != len(images):
            raise FidelityError(f"{num_places} image placeholders for {len(images)} images")
        sizes = iter(images)
        expanded: list[int] = []
        for token in engine_ids:
            expanded += [token] * (next(sizes).num_tokens if token == self.image_id else 1)
        return expanded

    def vision_inputs(self, images: Sequence[SeenImage], store: ImageStore) -> VisionInputs:
        """Process the images again. Raises FidelityError that names an image which now differs."""
        processed: dict[str, tuple[np.ndarray, tuple[int, int, int]]] = {}
        for image in images:
            key = image.ref.sha256
            if key not in processed:
                processed[key] = self._process(store.get(image.ref))
            _check_same(image, *processed[key])
        patch_dim = 3 * self._image_processor.temporal_patch_size
        patch_dim *= self._image_processor.patch_size**2
        pixels = [processed[image.ref.sha256][0] for image in images]
        return VisionInputs(
            pixel_values=np.concatenate([np.empty((0, patch_dim), np.float32), *pixels]),
            grid_thw=np.array([image.grid_thw for image in images], np.int64).reshape(-1, 3),
        )

    def _render(self, parts: Sequence[str | SeenImage]) -> str:
        """Neighbouring texts are joined first, so that no tag can hide between two of them."""
        rendered, text = "", ""
        for part in parts:
            if isinstance(part, str):
                text += part
            else:
                rendered += self._untrusted.break_tags(text) + IMAGE
                text = ""
        return rendered + self._untrusted.break_tags(text)

    def _process(self, data: bytes) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Pixel values [num_patches, patch_dim] float32 and the grid of one image."""
        image = decode_rgb(data)
        try:
            batch = self._image_processor(images=[image], return_tensors="np")
        except ValueError as error:  # e.g. an aspect ratio that no grid can hold
            raise DataError(f"an image of {image.size} cannot be shown: {error}") from error
        pixels = np.ascontiguousarray(batch["pixel_values"], dtype=np.float32)
        time, height, width = (int(size) for size in batch["image_grid_thw"][0])
        return pixels, (time, height, width)


def _any_of(texts: Iterable[str]) -> str:
    """A pattern for any of the texts, the longest first."""
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _seen_image(
    ref: ImageRef, pixels: np.ndarray, grid: tuple[int, int, int], *, merge_size: int
) -> SeenImage:
    time, height, width = grid
    return SeenImage(
        ref=ref,
        grid_thw=grid,
        num_tokens=time * height * width // merge_size**2,
        pixel_digest=_digest(pixels),
    )


def _check_same(image: SeenImage, pixels: np.ndarray, grid: tuple[int, int, int]) -> None:
    name = image.ref.sha256
    if grid != image.grid_thw:
        raise FidelityError(f"image {name}: grid {grid} here, {image.grid_thw} in the rollout")
    if _digest(pixels) != image.pixel_digest:
        raise FidelityError(f"image {name}: other pixel values here than in the rollout")
