"""What the learner's benchmark trains: a random Qwen3-VL of 282 M parameters and one fixed group.

In: a folder, lengths. Out: a policy that transformers loads, and a `Group` whose members are tool
trajectories with images; `update_flops`, the work that one update of them cannot do without.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from transformers import (
    PreTrainedTokenizerBase,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from cluster.nano.tokenizer import CHAT_TEMPLATE, build_tokenizer
from core.protocols import ImageStore
from core.records import (
    Answer,
    Completion,
    FinishReason,
    FoundImage,
    Group,
    Member,
    RolloutId,
    Sampling,
    Score,
    SeenImage,
    StopReason,
    Task,
    TaskMeta,
    TrainingSample,
    Trajectory,
    Turn,
)
from envs.chat import ChatFormat

VOCABULARY = 151_936
TURN_TOKENS = 768
"""Of one tool turn: what was sampled, an image where it fits, text."""
SAMPLED_TOKENS = 160
ANSWER_TOKENS = 128
IMAGE_SIDE = 512
"""Pixels; an image takes (512 / 32)^2 = 256 tokens."""
LENGTHS = (8192, 2048, 1536, 1229, 1024, 922, 870, 819)
"""Tokens of the members: a long tail, ten times as long as the shortest at its end."""

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})

_FIRST_WORD = 2000
"""Token ids from here on are text of no meaning; the tokenizer's own lie below."""


def build_policy(folder: Path) -> Path:
    """Weights, tokenizer and processor. Equal files every time."""
    tokenizer = build_tokenizer()
    save_processor(folder, tokenizer)
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(model_config(tokenizer)).save_pretrained(folder)
    return folder


def save_processor(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=16,
            temporal_patch_size=2,
            merge_size=2,
            size={"shortest_edge": 32 * 32, "longest_edge": IMAGE_SIDE * IMAGE_SIDE},
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, temporal_patch_size=2, merge_size=2),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def model_config(
    tokenizer: PreTrainedTokenizerBase,
    *,
    text: Mapping[str, Any] = EMPTY,
    vision: Mapping[str, Any] = EMPTY,
) -> Qwen3VLConfig:
    """`text` and `vision`: what is otherwise than in the model of 282 M parameters."""

    def token_id(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    return Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 8,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 16384,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            **text,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "num_heads": 2,
            "intermediate_size": 256,
            "out_hidden_size": 1024,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [1],
            **vision,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def make_group(lengths: Sequence[int], *, chat: ChatFormat, images: ImageStore) -> Group:
    """One task, a member of each length, scores spread evenly over [0, 1].

    The prompt that they share is half as long as the shortest."""
    random = np.random.default_rng(0)
    task = Task(
        task_id="benchmark",
        ordinal=0,
        prompt="",
        ground_truth=None,
        meta=TaskMeta(category="benchmark"),
    )
    prompt = _words(random, min(lengths) // 2)
    members = []
    for index, length in enumerate(lengths):
        rollout_id = RolloutId(ordinal=0, index=index)
        turns = _turns(prompt, length, random, chat=chat, images=images)
        trajectory = Trajectory(
            rollout_id=rollout_id,
            task=task,
            turns=tuple(turns),
            stop_reason=StopReason.ANSWER,
            answer=Answer(gen_prompt="", chosen=(), notes=()),
            shown=tuple(
                (f"IMG_{n:03d}", FoundImage(ref=image.ref, title="", page_url=""))
                for n, image in enumerate(turns[-1].images, start=1)
            ),
        )
        score = Score(value=index / (len(lengths) - 1), parts=())
        members.append(
            Member(rollout_id=rollout_id, trajectory=trajectory, rendered=None, outcome=score)
        )
    return Group(task=task, members=tuple(members))


def _turns(
    prompt: tuple[int, ...],
    length: int,
    random: np.random.Generator,
    *,
    chat: ChatFormat,
    images: ImageStore,
) -> list[Turn]:
    """Tool turns, then an answer; prompt and completion of the last are `length` tokens."""
    turns: list[Turn] = []
    ids, seen = prompt, ()
    while (left := length - len(ids) - ANSWER_TOKENS) > 0:
        size = left if left < 2 * SAMPLED_TOKENS + TURN_TOKENS else TURN_TOKENS
        turns.append(_turn(ids, seen, _words(random, min(SAMPLED_TOKENS, size))))
        ids += turns[-1].completion.token_ids
        size -= len(turns[-1].completion.token_ids)
        image = _image(random, chat=chat, images=images)
        pads = chat.expand(chat.encode_trusted("<|image_pad|>"), [image])
        if len(pads) < size:
            ids, seen = (*ids, *pads), (*seen, image)
            size -= len(pads)
        ids += _words(random, size)
    turns.append(_turn(ids, seen, _words(random, length - len(ids))))
    return turns


def _turn(
    prompt: tuple[int, ...], seen: tuple[SeenImage, ...], completion: tuple[int, ...]
) -> Turn:
    return Turn(
        engine_ids=prompt,
        prompt_ids=prompt,
        images=seen,
        completion=Completion(
            token_ids=completion,
            # A random policy is close to uniform, so the ratio is close to 1 and nothing is cut.
            logprobs=(-float(np.log(VOCABULARY)),) * len(completion),
            finish_reason=FinishReason.STOP,
            sampling=Sampling(temperature=1.0, top_p=1.0, banned_ids=(), seed=0),
            policy_versions=((0, 0, len(completion)),),
        ),
        text="",
        tool_call=None,
        tool_result=None,
        started_s=0.0,
        generate_s=0.0,
    )


def _image(random: np.random.Generator, *, chat: ChatFormat, images: ImageStore) -> SeenImage:
    small = random.integers(0, 256, (16, 16, 3), np.uint8)
    picture = Image.fromarray(small).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return chat.see(images.put(buffer.getvalue()), buffer.getvalue())


def _words(random: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(random.integers(_FIRST_WORD, VOCABULARY, count).tolist())


def update_flops(config: Any, samples: Sequence[TrainingSample]) -> float:
    """Forward and backward of the text tower and the head, nothing twice and no prompt shared.

    A matrix of n weights costs 2 n a token forward and 4 n backward; causal attention over T
    tokens half of 4 T^2 d forward and twice that backward; the head counts at sampled tokens only.
    The vision tower is frozen and small, and left out.
    """
    text = config.text_config
    query, kv = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    layer = text.hidden_size * (2 * query + 2 * kv + 3 * text.intermediate_size)
    head = text.hidden_size * text.vocab_size
    flops = 0.0
    for sample in samples:
        length, sampled = len(sample.token_ids), sum(sample.loss_mask)
        attention = 3 * 2 * length**2 * query
        flops += text.num_hidden_layers * (6 * layer * length + attention) + 6 * head * sampled
    return flops
