"""The nano world's image model: a diffusers pipeline that is called as `QwenImageEditPlusPipeline`.

In: a prompt, and no reference or up to three PIL references. Out: one 32x32 picture. The prompt is
read with the nano world's own vocabulary (`envs.nano.flags`); every other word is ignored. What it
does not name is copied from the reference that it points at ("second reference image"; the first
one if it points at none), so words override the reference.
The transformer is Qwen-Image's, in pixel space: 4x4 patches, no VAE. It predicts the clean picture,
from which the flow-matching velocity follows as (x_t - x_0) / sigma.
Fails with `ValueError` for too many references or for another size than 32x32.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Final

import numpy as np
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage.pipeline_output import QwenImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from envs.nano.flags import (
    COLOURS,
    LAYOUTS,
    SIZE,
    SYMBOLS,
    PartialFlag,
    named_reference,
    parse_description,
)

PATCH: Final = 4
NUM_PATCHES: Final = (SIZE // PATCH) ** 2
PATCH_DIM: Final = 3 * PATCH * PATCH
MAX_REFERENCES: Final = 3

UNSAID: Final = ""
_SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "layout": (UNSAID, *LAYOUTS),
    "field": (UNSAID, *COLOURS),
    "second": (UNSAID, *COLOURS),
    "symbol": (UNSAID, *SYMBOLS),
    "symbol_colour": (UNSAID, *COLOURS),
    "tens": (UNSAID, *"123456789"),
    "ones": (UNSAID, *"0123456789"),
}
_ROWS: Final = {
    pair: row for row, pair in enumerate((slot, value) for slot in _SLOTS for value in _SLOTS[slot])
}
PROMPT_DIM: Final = len(_ROWS)
"""Width of a prompt embedding: one place for each value of each slot."""


def encode_prompts(prompts: Sequence[str]) -> torch.Tensor:
    """One-hot prompt embeddings, float32 [batch, 7 slots, PROMPT_DIM].

    The transformer's own text projection turns the one-hot rows into learned vectors.
    """
    return encode_words([parse_description(prompt) for prompt in prompts])


def encode_words(words: Sequence[PartialFlag]) -> torch.Tensor:
    """The same for prompts that were read already."""
    rows = [_slot_rows(said) for said in words]
    return torch.nn.functional.one_hot(torch.tensor(rows), PROMPT_DIM).float()


def to_patches(pictures: torch.Tensor) -> torch.Tensor:
    """Float pictures [batch, 32, 32, 3] as tokens [batch, 64, 48]."""
    side = SIZE // PATCH
    split = pictures.reshape(-1, side, PATCH, side, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    return split.reshape(-1, NUM_PATCHES, PATCH_DIM)


def from_patches(tokens: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_patches`."""
    side = SIZE // PATCH
    split = tokens.reshape(-1, side, side, 3, PATCH, PATCH).permute(0, 1, 4, 2, 5, 3)
    return split.reshape(-1, SIZE, SIZE, 3)


def normalise(pictures: np.ndarray) -> torch.Tensor:
    """Uint8 pictures [batch, 32, 32, 3] as float tokens in [-1, 1]."""
    return to_patches(torch.from_numpy(pictures).float() / 127.5 - 1)


def predict_clean(
    transformer: QwenImageTransformer2DModel,
    noisy: torch.Tensor,
    *,
    sigma: torch.Tensor,
    prompt_embeds: torch.Tensor,
    references: torch.Tensor | None,
) -> torch.Tensor:
    """The clean tokens that the model sees in `noisy`, both [batch, 64, 48]; sigma is [batch]."""
    side = SIZE // PATCH
    shapes = [(1, side, side)] * (1 if references is None else 2)
    tokens = noisy if references is None else torch.cat([noisy, references], dim=1)
    output = transformer(
        hidden_states=tokens,
        encoder_hidden_states=prompt_embeds,
        encoder_hidden_states_mask=None,
        timestep=sigma,
        img_shapes=[shapes] * noisy.shape[0],
        return_dict=False,
    )[0]
    return output[:, :NUM_PATCHES]


class NanoEditPlusPipeline(DiffusionPipeline):
    """Draws flags from words and references; saved and loaded as any diffusers pipeline."""

    model_cpu_offload_seq = "transformer"

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image] | None = None,
        prompt: str = "",
        negative_prompt: str | None = None,
        true_cfg_scale: float = 4.0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 4,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> QwenImagePipelineOutput | tuple[list[Image.Image] | np.ndarray]:
        """One picture; the arguments mean what they mean in `QwenImageEditPlusPipeline`.

        Guidance runs only with both a negative prompt and a scale above 1.
        """
        if (height or SIZE, width or SIZE) != (SIZE, SIZE):
            raise ValueError(f"size {width}x{height}: this model draws {SIZE}x{SIZE} pictures only")
        images = [image] if isinstance(image, Image.Image) else list(image or ())
        references = self._reference_tokens(images, prompt=prompt)
        guided = negative_prompt is not None and true_cfg_scale > 1
        pictures = self.denoise(
            encode_prompts([prompt]),
            references=references,
            num_inference_steps=num_inference_steps,
            generator=generator,
            negative_embeds=encode_prompts([negative_prompt or ""]) if guided else None,
            true_cfg_scale=true_cfg_scale,
        )
        result: list[Image.Image] | np.ndarray = pictures
        if output_type == "pil":
            result = [Image.fromarray(picture) for picture in pictures]
        self.maybe_free_model_hooks()
        return QwenImagePipelineOutput(images=result) if return_dict else (result,)

    @torch.no_grad()
    def denoise(
        self,
        prompt_embeds: torch.Tensor,
        *,
        references: torch.Tensor | None,
        num_inference_steps: int,
        generator: torch.Generator | None = None,
        negative_embeds: torch.Tensor | None = None,
        true_cfg_scale: float = 1.0,
    ) -> np.ndarray:
        """A batch of pictures, uint8 [batch, 32, 32, 3]; embeddings and tokens share the batch."""
        device, dtype = self._execution_device, self.transformer.dtype
        embeds = prompt_embeds.to(device, dtype)
        negative = None if negative_embeds is None else negative_embeds.to(device, dtype)
        if references is not None:
            references = references.to(device, dtype)
        shape = (len(embeds), NUM_PATCHES, PATCH_DIM)
        latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=sigmas.tolist(), device=device)
        self.scheduler.set_begin_index(0)
        for step, timestep in enumerate(self.scheduler.timesteps):
            sigma = self.scheduler.sigmas[step]
            batch = {
                "sigma": sigma.to(dtype).expand(len(embeds)),
                "references": references,
            }
            noisy = latents.to(dtype)
            clean = predict_clean(self.transformer, noisy, prompt_embeds=embeds, **batch)
            if negative is not None:
                away = predict_clean(self.transformer, noisy, prompt_embeds=negative, **batch)
                clean = away + true_cfg_scale * (clean - away)
            velocity = (latents - clean.float()) / sigma
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        pictures = (from_patches(latents).clamp(-1, 1) + 1) * 127.5
        pixels: np.ndarray = pictures.round().to(torch.uint8).cpu().numpy()
        return pixels

    def _reference_tokens(
        self, images: Sequence[Image.Image], *, prompt: str
    ) -> torch.Tensor | None:
        """Tokens of the one reference to copy, [1, 64, 48]; None without references."""
        if len(images) > MAX_REFERENCES:
            raise ValueError(f"{len(images)} references: this model takes {MAX_REFERENCES} at most")
        if not images:
            return None
        index = named_reference(prompt, num_references=len(images))
        picture = images[index].convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
        return normalise(np.array(picture)[None])


def _slot_rows(said: PartialFlag) -> list[int]:
    values = {field.name: getattr(said, field.name) or UNSAID for field in fields(said)}
    banner = values.pop("banner")
    values["tens"], values["ones"] = (banner[0], banner[1]) if banner else (UNSAID, UNSAID)
    return [_ROWS[slot, values[slot]] for slot in _SLOTS]
