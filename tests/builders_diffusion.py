"""Tiny random diffusers pipelines, saved as folders that `from_pretrained` loads.

    folder = save_nano_pipeline(tmp_path / "nano")
    folder = save_edit_plus_pipeline(tmp_path / "edit")
    folder = save_text_pipeline(tmp_path / "text")

The Qwen pipelines have every component of the published ones, with their classes, special tokens
and call signature, at about a hundred thousand parameters. Edit-Plus encodes references at a
million pixels whatever the size of its output, so this VAE shrinks more than the published one: by
32. Pictures are therefore 64 pixels wide or a multiple of that.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from actors.nano_pipeline import PATCH, PATCH_DIM, PROMPT_DIM, NanoEditPlusPipeline

_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_HIDDEN = 32
_LATENT_CHANNELS = 4


def save_nano_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """A random nano pipeline of one small layer."""
    torch.manual_seed(seed)
    transformer = QwenImageTransformer2DModel(
        patch_size=PATCH,
        in_channels=PATCH_DIM,
        out_channels=3,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=PROMPT_DIM,
        axes_dims_rope=(4, 6, 6),
    )
    pipeline = NanoEditPlusPipeline(transformer, FlowMatchEulerDiscreteScheduler())
    pipeline.save_pretrained(folder)
    return folder


def save_edit_plus_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """A random `QwenImageEditPlusPipeline`."""
    components = _qwen_components(seed)
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56},
            patch_size=14,
        ),
        tokenizer=components["tokenizer"],
        video_processor=Qwen2VLVideoProcessor(),
    )
    QwenImageEditPlusPipeline(processor=processor, **components).save_pretrained(folder)
    return folder


def save_text_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """A random `QwenImagePipeline`."""
    QwenImagePipeline(**_qwen_components(seed)).save_pretrained(folder)
    return folder


def _qwen_components(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02
        ),
        "vae": AutoencoderKLQwenImage(
            base_dim=2,
            z_dim=_LATENT_CHANNELS,
            dim_mult=[1, 2, 2, 2, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, False, False, True, True],
            latents_mean=[0.0] * _LATENT_CHANNELS,
            latents_std=[1.0] * _LATENT_CHANNELS,
        ),
        "text_encoder": _text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "transformer": QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=4 * _LATENT_CHANNELS,
            out_channels=_LATENT_CHANNELS,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=16,
            joint_attention_dim=_HIDDEN,
            axes_dims_rope=(4, 6, 6),
        ),
    }


def _tokenizer() -> Qwen2Tokenizer:
    """Byte level without merges: one token per byte, so the templates are longer than published."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL_TOKENS, *alphabet])}
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        eos_token="<|im_end|>",
        additional_special_tokens=list(_SPECIAL_TOKENS),
    )


def _text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "bos_token_id": None,
            "eos_token_id": token_id("<|im_end|>"),
            "vocab_size": len(tokenizer),
            "hidden_size": _HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [0],
            "out_hidden_size": _HIDDEN,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config)
