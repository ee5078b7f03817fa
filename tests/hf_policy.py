"""The policy in plain transformers: the oracle that engines are held against.

oracle = HfPolicy(folder)
seen = oracle.see(store.put(png), png)
oracle.logprobs(prompt_ids, token_ids, pngs=[png], temperature=0.7, banned_ids=banned)
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from core.records import ImageRef, SeenImage

PLACEHOLDERS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


class HfPolicy:
    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        self.image_id = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.stop_id = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.banned_ids = tuple(self.tokenizer.convert_tokens_to_ids(t) for t in PLACEHOLDERS)

    def encode(self, text: str) -> tuple[int, ...]:
        """Control tokens included: "<|vision_start|><|image_pad|><|vision_end|>" is 3 ids."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def see(self, ref: ImageRef, png: bytes) -> SeenImage:
        pixels, grid = self.pixels([png])
        time, height, width = (int(size) for size in grid[0])
        return SeenImage(
            ref=ref,
            grid_thw=(time, height, width),
            num_tokens=time * height * width // self.processor.image_processor.merge_size**2,
            pixel_digest=hashlib.sha256(pixels.numpy().astype(np.float32).tobytes()).hexdigest(),
        )

    def expand(self, engine_ids: Sequence[int], images: Sequence[SeenImage]) -> tuple[int, ...]:
        counts = iter([image.num_tokens for image in images])
        return tuple(
            token
            for one in engine_ids
            for token in [one] * (next(counts) if one == self.image_id else 1)
        )

    def pixels(self, pngs: Sequence[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
        images = [Image.open(io.BytesIO(png)).convert("RGB") for png in pngs]
        out = self.processor.image_processor(images=images, return_tensors="pt")
        return out["pixel_values"], out["image_grid_thw"]

    @torch.no_grad()
    def logprobs(
        self,
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
        *,
        pngs: Sequence[bytes] = (),
        temperature: float,
        banned_ids: Sequence[int],
        blank: bool = False,
    ) -> np.ndarray:
        """[T] log pi at `temperature` over the vocabulary less `banned_ids`. `blank`: no image."""
        ids = torch.tensor([[*prompt_ids, *token_ids]])
        inputs = {"mm_token_type_ids": (ids == self.image_id).int()}
        if pngs:
            pixels, grid = self.pixels(pngs)
            inputs["pixel_values"] = torch.zeros_like(pixels) if blank else pixels
            inputs["image_grid_thw"] = grid
        logits = self.model(input_ids=ids, use_cache=False, **inputs).logits[0].float()
        logits[:, list(banned_ids)] = float("-inf")
        logprobs = torch.log_softmax(logits[len(prompt_ids) - 1 : -1] / temperature, dim=-1)
        return logprobs.gather(-1, torch.tensor(token_ids)[:, None])[:, 0].numpy()

    @torch.no_grad()
    def perturb(self, *, scale: float, seed: int) -> None:
        """Move every weight a little: the policy of the next version."""
        generator = torch.Generator().manual_seed(seed)
        for weight in self.model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * scale)
