"""One GRPO update by each way that `benchmarks.learner` compares, in this process.

    ours           GrpoLearner.update: samples, packs, shared prompt, fused head, DeepSpeed's step
    ours_no_share  the same without the shared prompt
    ours_alone     the same, and every sequence in a pass of its own
    padded         plain transformers, every row padded to the longest of the batch
    one_by_one     plain transformers, one sequence at a time, no padding
    trl            the loss of TRL's trainer (benchmarks/learner_trl.py)

The plain ways are written well: logits at sampled positions only, fused AdamW, a frozen vision
tower, and attention that never holds [T, T]. All ways compute in one dtype and clip gradients.
"""

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen3VLForConditionalGeneration

from benchmarks.learner_batch import make_group, update_flops
from core.config import Config, build_config
from core.records import Group, TrainingSample
from envs.chat import ChatFormat
from envs.images import FileImageStore
from learners.flat import DTYPES
from learners.grpo_learner import GrpoLearner, select_samples

WARM_UP = (400, 300)
"""Lengths of a small update that comes first: what is made once is made there."""
PAD_ID = 0
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be trained, and how."""

    config: Config
    chat: ChatFormat
    images: FileImageStore
    micro_batch: int
    """Rows at a time, of the ways that pad."""
    max_rows: int
    """Most padded rows that are timed; all of a batch have one length and cost the same."""

    def group(self, lengths: Sequence[int]) -> Group:
        return make_group(lengths, chat=self.chat, images=self.images)

    def samples(self, group: Group) -> list[TrainingSample]:
        return select_samples([group], config=self.config)[0]

    def micro_batches(self, samples: Sequence[TrainingSample]) -> list[Sequence[TrainingSample]]:
        """The last `max_rows` rows, or one micro-batch if that is more."""
        size = self.micro_batch
        pieces = [samples[start : start + size] for start in range(0, len(samples), size)]
        return pieces[-max(1, self.max_rows // size) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an update did."""

    share: float
    """Of the rows that were computed."""
    grad_norm: float
    """Before clipping; where all rows were computed it is the same for every way."""
    step_s: float = 0.0
    """Clipping and optimizer, which a share of the rows costs as much as all."""


Update = Callable[[Group], Done]


def open_work(
    folder: Path,
    *,
    dtype: str,
    micro_batch: int,
    max_rows: int,
    share_prefix: bool,
    recompute: bool,
    alone: bool = False,
) -> Work:
    """`alone`: our learner gives each sequence a pass of its own."""
    learner: dict[str, Any] = {
        "dtype": dtype,
        "lr": 1e-6,
        "warmup_steps": 0,
        # The update after the warm-up is then the plain clipped surrogate, as the other ways' is.
        "correction": "none",
        "share_prefix": share_prefix,
        "gradient_checkpointing": recompute,
    }
    if alone:
        learner["micro_batch_tokens"] = 64  # the least that there is; a longer one goes alone
    return Work(
        config=build_config({"policy": {"path": str(folder / "policy")}, "learner": learner}),
        chat=ChatFormat.load(folder / "policy"),
        images=FileImageStore(folder / "images"),
        micro_batch=micro_batch,
        max_rows=max_rows,
    )


def measure(update: Update, work: Work, lengths: Sequence[int]) -> dict[str, Any]:
    """One update in a process that has done nothing else."""
    group = work.group(lengths)
    samples = work.samples(group)
    update(work.group(WARM_UP))
    state_gib = _resident_gib()
    started, started_cpu = time.perf_counter(), time.process_time()
    done = update(group)
    seconds = (time.perf_counter() - started - done.step_s) / done.share + done.step_s
    cpu_seconds = time.process_time() - started_cpu
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    model = AutoConfig.from_pretrained(work.config.policy.path)
    return {
        "tokens_per_s": round(sum(len(sample.token_ids) for sample in samples) / seconds, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "timed_share": round(done.share, 3),
        "grad_norm": round(done.grad_norm, 5),
        "peak_rss_gib": round(peak_gib, 2),
        "state_gib": round(state_gib, 2),
        "over_state_gib": round(peak_gib - state_gib, 2),
        "gflops": round(update_flops(model, samples) / seconds / 1e9, 1),
    }


def ours(work: Work) -> Update:
    learner = GrpoLearner(work.config, chat=work.chat, images=work.images)

    def update(group: Group) -> Done:
        report = learner.update([group])
        assert report.num_samples == len(group.members)
        return Done(share=1.0, grad_norm=report.metrics["learner/grad_norm"])

    return update


def padded(work: Work) -> Update:
    def rows(samples: Sequence[TrainingSample]) -> Iterator[dict[str, torch.Tensor]]:
        width = max(len(sample.token_ids) for sample in samples)
        for piece in work.micro_batches(samples):
            yield collate(piece, work, width=width)

    return _plain(work, rows)


def one_by_one(work: Work) -> Update:
    def rows(samples: Sequence[TrainingSample]) -> Iterator[dict[str, torch.Tensor]]:
        for sample in samples:
            yield collate([sample], work, width=len(sample.token_ids))

    return _plain(work, rows)


def _plain(
    work: Work, rows: Callable[[Sequence[TrainingSample]], Iterator[dict[str, torch.Tensor]]]
) -> Update:
    model, optimizer = load_plain(work)

    def update(group: Group) -> Done:
        samples = work.samples(group)
        total = sum(sum(sample.loss_mask) for sample in samples)
        done = 0
        for batch in rows(samples):
            done += len(batch["input_ids"])
            (_plain_loss(model, batch, work) / total).backward()
        return clip_and_step(model, optimizer, work, share=done / len(samples))

    return update


def load_plain(work: Work) -> tuple[Qwen3VLForConditionalGeneration, torch.optim.Optimizer]:
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        work.config.policy.path,
        dtype=DTYPES[work.config.learner.dtype],
        attn_implementation="sdpa",
    ).train()
    model.model.visual.requires_grad_(False)
    if work.config.learner.checkpoints_gradients:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=work.config.learner.lr, fused=True)


def clip_and_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, work: Work, *, share: float
) -> Done:
    started = time.perf_counter()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), work.config.learner.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return Done(share=share, grad_norm=norm.item(), step_s=time.perf_counter() - started)


def collate(
    samples: Sequence[TrainingSample], work: Work, *, width: int
) -> dict[str, torch.Tensor]:
    """Rows [B, width], padded on the right, and their images one after another."""

    def stack(rows: Sequence[Sequence[float]], pad: float) -> torch.Tensor:
        return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])

    input_ids = stack([sample.token_ids for sample in samples], PAD_ID)
    batch = {
        "input_ids": input_ids,
        "attention_mask": stack([[1] * len(sample.token_ids) for sample in samples], 0),
        "mm_token_type_ids": (input_ids == work.chat.image_id).int(),
        "sampled": stack([sample.loss_mask for sample in samples], 0).bool(),
        "logprobs": stack([sample.logprobs for sample in samples], 0.0),
        "advantages": stack([sample.advantages for sample in samples], 0.0),
    }
    images = [image for sample in samples for image in sample.images]
    if images:
        vision = work.chat.vision_inputs(images, work.images)
        batch["pixel_values"] = torch.from_numpy(vision.pixel_values)
        batch["image_grid_thw"] = torch.from_numpy(vision.grid_thw)
    return batch


def _plain_loss(
    model: Qwen3VLForConditionalGeneration, batch: dict[str, torch.Tensor], work: Work
) -> torch.Tensor:
    """The sum over sampled tokens of GRPO's clipped surrogate."""
    targets, sampled = batch["input_ids"][:, 1:], batch.pop("sampled")[:, 1:]
    old, advantages = (batch.pop(name)[:, 1:][sampled] for name in ("logprobs", "advantages"))
    hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden[sampled]).float()
    now = logits.log_softmax(-1).gather(1, targets[sampled][:, None]).squeeze(1)
    ratio = (now - old).exp()
    settings = work.config.learner
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages).sum()


def _resident_gib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return pages * resource.getpagesize() / GIB
