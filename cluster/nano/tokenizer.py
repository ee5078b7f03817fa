"""The nano policy's tokenizer and processor, made from the nano world's own words.

In: nothing but the tables of envs/nano. Out: a byte-level BPE tokenizer that carries the published
special tokens of the Qwen3-VL family with their `special` flags, the Qwen chat frame, and a
Qwen3-VL processor for 32x32 images (patch 8, merge 2: four tokens an image). Names are two tokens,
a year or an image id is one, and so is every fixed piece of the protocol's JSON, which keeps
episodes short. Any other text still encodes, byte by byte. Building it twice gives equal files.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from envs.nano.flags import BANNER, COLOURS, LAYOUTS, SIZE, SYMBOLS
from envs.nano.kinds import KINDS
from envs.nano.names import FIRST_SYLLABLES, SECOND_SYLLABLES

END_OF_TEXT: Final = "<|endoftext|>"
END_OF_TURN: Final = "<|im_end|>"
IMAGE: Final = "<|vision_start|><|image_pad|><|vision_end|>"
SPECIAL: Final = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS: Final = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<answer>",
    "</answer>",
)
"""Plain added tokens, as in the published tokenizer: they survive decoding."""
JSON_PIECES: Final = (
    '{"name": "search", "arguments": {"queries": ["',
    '"]}}',
    '{"name": "image_search", "arguments": {"query": "',
    '"}}',
    '{"gen_prompt": "',
    '", "reference_images": [{"img_id": "',
    '", "note": "',
    '"}]}',
    '", "reference_images": []}',
)
NUM_IMAGE_IDS: Final = 24
PATCH: Final = 8
MERGE: Final = 2
TOKENS_PER_IMAGE: Final = (SIZE // (PATCH * MERGE)) ** 2

SYSTEM_PROMPT: Final = "Tools: search, image_search, browse."
_PHRASES: Final = (
    SYSTEM_PROMPT,
    "Draw the flag of the country where the that the is named after",
    "with its year of founding as the banner.",
    "founded, field. named after. treaty: signed. old flag of beside",
    "find see no image all given about use flag of the first reference image banner",
    "error nothing found so user assistant system",
)

CHAT_TEMPLATE: Final = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ("image", "image_url") -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == "text" -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, from nothing; about a thousand tokens."""
    tokenizer = Tokenizer(models.BPE())
    first, second = "|".join(FIRST_SYLLABLES), "|".join(SECOND_SYLLABLES)
    pieces = (
        rf" ?(?:{first})(?=(?:{second})(?![a-z]))",  # a name's first syllable
        r"[^A-Za-z0-9 ]*p(?=[0-9]{4})",  # a page's address
        r" ?[A-Za-z]+",
        r" ?[0-9]{2}",
        r" ?[0-9]",
        r"[^A-Za-z0-9 ]+",
        r" +",
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(pieces)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lexicon(), trainer)
    image_ids = [f"IMG_{number:03d}" for number in range(1, NUM_IMAGE_IDS + 1)]
    tokenizer.add_tokens(
        [
            AddedToken(text, normalized=False, special=False)
            for text in (*TAGS, *JSON_PIECES, *image_ids)
        ]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL),
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Tokenizer and image processor in one; its pixels are in [-1, 1]."""
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    tokenizer.vision_bos_token, tokenizer.vision_eos_token = "<|vision_start|>", "<|vision_end|>"
    area = {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE}
    sizes = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": MERGE, "size": area}
    scale = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Qwen2VLImageProcessorPil(**sizes, **scale)
    videos = Qwen3VLVideoProcessor(**sizes, **scale)
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=CHAT_TEMPLATE)


def save_processor(folder: Path) -> PreTrainedTokenizerFast:
    """Write tokenizer, processor and chat template into a model folder."""
    tokenizer = build_tokenizer()
    build_processor(tokenizer).save_pretrained(folder)
    return tokenizer


def _lexicon() -> Iterator[str]:
    """Every word of the world, so that each becomes one token."""
    for word in " ".join(_PHRASES).split():
        yield from (word, f" {word}")
    yield from _PHRASES
    for first, second in zip(FIRST_SYLLABLES, SECOND_SYLLABLES, strict=True):
        yield from (f" {first}{second}", f" {first}{second}")
    for kind in KINDS:
        yield f" {kind.word} {kind.relation} {kind.clause}"
    yield " ".join(("", *COLOURS, *LAYOUTS, *SYMBOLS, BANNER))
    for number in range(100):
        yield f"{number:02d} {number:02d}"
    fact = "[p0000] Bar: founded 10, field red.\n[p0000] Bar: held in Bar.\n"
    yield fact + json.dumps({"queries": ["a b"]})
