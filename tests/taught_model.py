"""A tiny policy that knows three first turns by heart, so that a group of its episodes has spread.

    build_taught_policy(folder, prompts=[task.prompt for task in tasks])

Sampled at temperature 1 it answers with one of two colours or searches for an image, each about
as often, and sometimes it slips. A few seconds of plain supervised training from the random
weights of tests/tiny_model.py; equal arguments give an equal policy on one machine.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Qwen3VLForConditionalGeneration

from envs.chat import STOP, ChatFormat
from tests.tiny_model import build_tiny_policy

TURNS = (
    '<think>a</think><answer>{"gen_prompt": "red plain", "reference_images": []}</answer>',
    '<think>b</think><answer>{"gen_prompt": "blue plain", "reference_images": []}</answer>',
    "<think>c</think>"
    '<tool_call>{"name": "image_search", "arguments": {"query": "flag"}}</tool_call>',
)


def build_taught_policy(
    folder: Path, *, prompts: Sequence[str], system: str, steps: int = 120
) -> Path:
    """Write the policy to `folder` and return it."""
    build_tiny_policy(folder)
    chat = ChatFormat.load(folder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        prompt = prompts[step % len(prompts)]
        ids, labels = _batch(chat, system=system, prompt=prompt)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def _batch(chat: ChatFormat, *, system: str, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One row per turn; what the policy does not say, and the padding, has label -100."""
    start = chat.start(system=system, prompt=prompt)
    turns = [chat.encode_trusted(turn + STOP) for turn in TURNS]
    longest = max(map(len, turns))
    ids = [[*start, *turn, *[chat.stop_id] * (longest - len(turn))] for turn in turns]
    labels = [[-100] * len(start) + turn + [-100] * (longest - len(turn)) for turn in turns]
    return torch.tensor(ids), torch.tensor(labels)
