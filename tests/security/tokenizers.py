"""Two chat formats to attack: the nano policy's, and a stand-in for the published one.

The stand-in is a byte-level BPE with the NFC normaliser and the published added-token table of the
Qwen3-VL family, ids and `special` flags included; its plain vocabulary is bytes and filler.
"""

from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cluster.nano.tokenizer import build_tokenizer
from envs.chat import ChatFormat

FIRST_ADDED_ID: Final = 151643
SPECIAL: Final = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
PLAIN: Final = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)
"""Added tokens whose `special` flag is off."""
PROTOCOL: Final = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("<answer>", "</answer>"),
)
"""The last two are no tokens of the published tokenizer, but tags all the same."""
TAGS: Final = tuple(dict.fromkeys((*SPECIAL, *PLAIN, *PROTOCOL)))


def stand_in() -> ChatFormat:
    vocab = {char: number for number, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    vocab |= {f"filler{number}": number for number in range(len(vocab), FIRST_ADDED_ID)}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    bpe.add_tokens([AddedToken(t, special=False, normalized=False) for t in PLAIN])
    assert bpe.token_to_id("<|endoftext|>") == FIRST_ADDED_ID
    assert bpe.token_to_id("</think>") == FIRST_ADDED_ID + len(SPECIAL) + len(PLAIN) - 1
    return ChatFormat(PreTrainedTokenizerFast(tokenizer_object=bpe), image_processor=None)


def nano() -> ChatFormat:
    return ChatFormat(build_tokenizer(), image_processor=None)


def forbidden_tags(chat: ChatFormat) -> tuple[str, ...]:
    """What strangers may not write: the tokens that this tokenizer knows, and the protocol."""
    return tuple(tag for tag in TAGS if tag in PROTOCOL or len(chat.encode_trusted(tag)) == 1)


def control_ids(chat: ChatFormat) -> frozenset[int]:
    """Of every token that only we may write."""
    known = (chat.encode_trusted(tag) for tag in TAGS)
    return frozenset(ids[0] for ids in known if len(ids) == 1)
