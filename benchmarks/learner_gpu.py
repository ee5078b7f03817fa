"""One GRPO update through a GPU at 16k context: state in host memory, and on the GPU itself.

    python -m benchmarks.learner_gpu --json
    python -m benchmarks.learner_gpu --json --size 2b --ways host gpu

A random Qwen3-VL of a published shape in bfloat16, masters and AdamW in float32, a frozen tower,
layers computed again in the backward pass; 32 tool trajectories with images, 16,384 to 1,638
tokens, in packs of 16,384. Each way runs in a process of its own, in turn:

    host      what `learner.device: cuda` does (ZeRO-Offload, arXiv 2101.06840): masters and moments
              in host memory, and the optimizer's step on the processor
    host_3    the same with learner.zero_stage 3: the weights too lie in host memory
    gpu       all state on the GPU

    tokens_per_s     tokens of the trajectories
    mfu              update_flops (nothing twice) per second, as a share of `matmul_tflops`
    parts_s          what they went to; packs with their images are built meanwhile
    publish_s        copying all weights out for the rollout workers, after the update
    gpu_peak_gib     of tensors, in the update
    host_peak_gib    resident, of the whole process
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen3VLForConditionalGeneration

from benchmarks.learner_batch import LENGTHS, make_group, model_config, save_processor, update_flops
from benchmarks.machine import machine
from cluster.nano.tokenizer import build_tokenizer
from core.config import build_config
from envs.chat import ChatFormat
from envs.images import FileImageStore
from learners import engine
from learners.grpo_learner import GrpoLearner, select_samples

GIB = 2**30
CONTEXT = 16_384
SAMPLES = tuple(CONTEXT * length // LENGTHS[0] for length in LENGTHS) * 4
"""Tokens of each."""
WARM_UP = (2048, 1024)
"""Of an update that comes first: what is made once is made there."""
WAYS = ("host", "gpu", "host_3")

_HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
_TOWER = {
    "depth": 24,
    "hidden_size": 1024,
    "num_heads": 16,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}
SIZES: dict[str, dict[str, Any]] = {
    "2b": {
        "text": {
            **_HEADS,
            "num_attention_heads": 16,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
        },
        "vision": _TOWER | {"out_hidden_size": 2048},
    },
    "4b": {
        "text": {
            **_HEADS,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
        },
        "vision": _TOWER | {"out_hidden_size": 2560},
    },
}
"""Of Qwen3-VL as published, by its name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--size", choices=sorted(SIZES), default="4b")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--folder", type=Path, help="keep the policy here for the next run")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU is at hand; benchmarks.learner measures the learner on a processor")
    if arguments.way:
        print(json.dumps(run_way(arguments.way, arguments.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="learner-") as name:
        folder = (arguments.folder or Path(name)) / arguments.size
        if not (folder / "policy").is_dir():
            build_policy(folder / "policy", size=arguments.size)
        result = compare(arguments, folder)
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=2))


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    peak = matmul_tflops()
    torch.cuda.empty_cache()
    result: dict[str, Any] = {
        "benchmark": "learner_gpu",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "size": arguments.size,
        "tokens": sum(SAMPLES),
        "context": CONTEXT,
        "matmul_tflops": round(peak, 1),
    }
    for way in arguments.ways:
        command = [sys.executable, "-m", "benchmarks.learner_gpu", "--way", way]
        done = subprocess.run(
            [*command, "--folder", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            result[way] = {"error": reason[:300]}
        else:
            found = json.loads(done.stdout.splitlines()[-1])
            result[way] = found | {"mfu": round(found["tflops"] / peak, 3)}
        print(f"{way}: {result[way]}", file=sys.stderr)
    return result


def run_way(way: str, folder: Path) -> dict[str, Any]:
    """In the way's own process."""
    if way == "gpu":
        engine.deepspeed_config = _state_on_the_gpu(engine.deepspeed_config)
    config = build_config(
        {
            "policy": {"path": str(folder / "policy"), "dtype": "bfloat16"},
            "learner": {
                "device": "cuda",
                "dtype": "bfloat16",
                "lr": 1e-6,
                "warmup_steps": 0,
                # The update after the warm-up is then the plain clipped surrogate.
                "correction": "none",
                "micro_batch_tokens": CONTEXT,
                "zero_stage": 3 if way == "host_3" else None,
                "broadcast": "dense",
            },
        }
    )
    chat = ChatFormat.load(folder / "policy")
    images = FileImageStore(folder / "images")
    started = time.perf_counter()
    learner = GrpoLearner(config, chat=chat, images=images)
    opened_s = time.perf_counter() - started
    learner.update([make_group(WARM_UP, chat=chat, images=images)])
    learner.publish()

    group = make_group(SAMPLES, chat=chat, images=images)
    samples, _ = select_samples([group], config=config)
    parts = {name: _Timed(learner._engine, name) for name in ("forward", "backward", "step")}
    torch.cuda.reset_peak_memory_stats()
    seconds, report = _timed(lambda: learner.update([group]))
    assert report.num_samples == len(SAMPLES)
    gpu_peak = torch.cuda.max_memory_allocated() / GIB
    publish_s, _ = _timed(learner.publish)
    flops = update_flops(AutoConfig.from_pretrained(config.policy.path), samples)
    return {
        "tokens_per_s": round(sum(SAMPLES) / seconds, 1),
        "tflops": round(flops / seconds / 1e12, 1),
        "seconds": round(seconds, 2),
        "parts_s": {name: round(part.seconds, 2) for name, part in parts.items()},
        "publish_s": round(publish_s, 2),
        "gpu_peak_gib": round(gpu_peak, 1),
        "host_peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 1),
        "opened_s": round(opened_s, 1),
        "packs": int(report.metrics["learner/micro_batches"]),
        "grad_norm": round(report.metrics["learner/grad_norm"], 5),
    }


def build_policy(folder: Path, *, size: str) -> None:
    """Drawn on the GPU, which is done in seconds. The spread is that of a fresh Qwen3-VL."""
    tokenizer = build_tokenizer()
    save_processor(folder, tokenizer)
    config = model_config(
        tokenizer,
        text=SIZES[size]["text"] | {"max_position_embeddings": 2 * CONTEXT},
        vision=SIZES[size]["vision"],
    )
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    model.to_empty(device="cuda")
    model.tie_weights()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    model.save_pretrained(folder)


def matmul_tflops() -> float:
    """The fastest of several products of bfloat16 matrices of 8,192 x 8,192."""
    left, right = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    best = 0.0
    for _ in range(12):
        seconds, _ = _timed(lambda: [left @ right for _ in range(10)])
        best = max(best, 10 * 2 * 8192**3 / seconds / 1e12)
    return best


class _Timed:
    """Takes the place of a method, and adds up how long it takes."""

    def __init__(self, owner: Any, name: str) -> None:
        self._call = getattr(owner, name)
        self.seconds = 0.0
        setattr(owner, name, self)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        seconds, found = _timed(lambda: self._call(*arguments, **settings))
        self.seconds += seconds
        return found


def _timed(work: Any) -> tuple[float, Any]:
    torch.cuda.synchronize()
    started = time.perf_counter()
    found = work()
    torch.cuda.synchronize()
    return time.perf_counter() - started, found


def _state_on_the_gpu(host: Any) -> Any:
    def settings(config: Any) -> dict[str, Any]:
        found: dict[str, Any] = host(config)
        found["zero_optimization"].pop("offload_optimizer")
        return found

    return settings


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cuda")
    main()
