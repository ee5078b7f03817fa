"""A tiny random Qwen3-VL folder (about 0.3 M parameters, float32) with its tokenizer and processor.

    build_tiny_policy(tmp_path / "policy", seed=0)

The tokenizer has the published token strings and `special` flags of the Qwen3-VL family: control
and vision tokens are special, the protocol's tags (<think>, <tool_call>, ...) are not. Weights are
drawn large enough that a sampled token depends visibly on the context and on the image pixels.
An image of 32 x 32 pixels takes 4 placeholder tokens, the largest (64 x 64) takes 16.
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Special: `skip_special_tokens` drops them."""

TAG_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""One id each, but not special: decoding keeps them."""

_TRAINING_TEXT = (
    'Draw the flag of Torvi. <think>find Torvi</think>{"name": "search", "arguments": '
    '{"queries": ["Torvi"]}} {"gen_prompt": "red plain", "reference_images": []} '
    "system user assistant Tools: search, image_search, browse. IMG_001: flag of"
)


def build_tiny_policy(folder: Path, seed: int = 0) -> Path:
    """Write model, tokenizer and processor to `folder` and return it. Equal seeds, equal files."""
    folder = Path(folder)
    tokenizer = _build_tokenizer()
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=8,
            temporal_patch_size=2,
            merge_size=2,
            size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64},
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=8, temporal_patch_size=2, merge_size=2),
    )
    processor.save_pretrained(folder)
    _build_model(tokenizer, seed=seed).save_pretrained(folder)
    return folder


def _build_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([_TRAINING_TEXT] * 4, trainer)
    bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL_TOKENS])
    bpe.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAG_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )
    return tokenizer


def _build_model(
    tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Qwen3VLForConditionalGeneration:
    hidden = 64
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [8, 4, 4],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": hidden,
            "num_heads": 2,
            "intermediate_size": 128,
            "out_hidden_size": hidden,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config).to(torch.float32)
        _draw_weights(model)
    model.generation_config.eos_token_id = token_id("<|im_end|>")
    model.generation_config.pad_token_id = token_id("<|endoftext|>")
    return model


@torch.no_grad()
def _draw_weights(model: Qwen3VLForConditionalGeneration) -> None:
    """Matrices at 1.5 / sqrt(fan in), so that activations stay large through every layer."""
    for name, weight in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            weight.normal_(std=0.3)
        elif weight.ndim >= 2:
            fan_in = weight[0].numel()
            weight.normal_(std=1.5 / fan_in**0.5)
