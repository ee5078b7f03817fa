"""The loss of TRL's GRPO trainer, forward and backward, on a batch as its own generation makes it.

In: `Work`. Out: an update that pads prompts on the left and completions on the right to the longest
of the whole batch, splits it in micro-batches and calls the trainer's loss, as its training loop
does. Tokens of tools are completion tokens that its `tool_mask` leaves out of the loss. Needs the
`peers` extra.
"""

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoProcessor
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import (
    pad,
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from benchmarks.learner_ways import PAD_ID, Done, Update, Work, clip_and_step, load_plain
from core.records import Group, TrainingSample


def trl(work: Work) -> Update:
    model, optimizer = load_plain(work)
    trainer = _trainer(model, work)

    def update(group: Group) -> Done:
        samples = work.samples(group)
        pieces = -(-len(samples) // work.micro_batch)
        batches = _split(_inputs(samples, work), pieces)
        timed = batches[-max(1, work.max_rows // work.micro_batch) :]
        for batch in timed:
            loss = trainer._compute_loss(trainer.model, batch)
            trainer.accelerator.backward(loss)
        share = sum(len(batch["prompt_ids"]) for batch in timed) / len(samples)
        return clip_and_step(model, optimizer, work, share=share)

    return update


def _trainer(model: Any, work: Work) -> GRPOTrainer:
    os.environ["WANDB_MODE"] = "disabled"
    settings = work.config.learner
    arguments = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-"),
        report_to="none",
        use_cpu=True,
        bf16=settings.dtype == "bfloat16",
        per_device_train_batch_size=work.micro_batch,
        num_generations=2,
        generation_batch_size=2 * work.micro_batch,
        temperature=1.0,
        epsilon=settings.clip_low,
        epsilon_high=settings.clip_high,
        beta=0.0,
        loss_type="dapo",
        gradient_checkpointing=settings.checkpoints_gradients,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **unused: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
        processing_class=AutoProcessor.from_pretrained(work.config.policy.path),
    )
    # One optimizer step for the whole generation batch.
    trainer.current_gradient_accumulation_steps = arguments.steps_per_generation
    return trainer


def _inputs(samples: Sequence[TrainingSample], work: Work) -> dict[str, Any]:
    """What `GRPOTrainer._generate_and_score_completions` returns."""
    starts = [sample.loss_mask.index(1) for sample in samples]
    pairs = list(zip(samples, starts, strict=True))
    sides = {
        "prompt": ("left", [torch.tensor(s.token_ids[:start]) for s, start in pairs]),
        "completion": ("right", [torch.tensor(s.token_ids[start:]) for s, start in pairs]),
    }
    inputs: dict[str, Any] = {}
    for name, (side, ids) in sides.items():
        inputs[f"{name}_ids"] = pad(ids, PAD_ID, side)
        inputs[f"{name}_mask"] = pad([torch.ones_like(row) for row in ids], 0, side)
    old = [torch.tensor(s.logprobs[start:]) for s, start in pairs]
    tools = [torch.tensor(s.loss_mask[start:]) for s, start in pairs]
    inputs["old_per_token_logps"] = pad(old, 0.0)
    inputs["tool_mask"] = pad(tools, 1)
    inputs["num_items_in_batch"] = torch.tensor(float(sum(int(row.sum()) for row in tools)))
    inputs["advantages"] = torch.tensor([max(s.advantages, key=abs) for s in samples])
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    inputs["mm_token_type_ids"] = (ids == work.chat.image_id).int()
    images = [image for sample in samples for image in sample.images]
    if images:
        vision = work.chat.vision_inputs(images, work.images)
        inputs["pixel_values"] = torch.from_numpy(vision.pixel_values)
        inputs["image_grid_thw"] = torch.from_numpy(vision.grid_thw)
        inputs["num_images"] = [len(sample.images) for sample in samples]
    return inputs


def _split(inputs: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """With TRL's own functions; the vision tower fails on no image, so such a piece names none."""
    pieces = split_tensor_dict(split_pixel_values_by_grid(inputs), count)
    pieces = [unsplit_pixel_values_by_grid(piece) for piece in pieces]
    for piece in pieces:
        if not sum(piece.get("num_images", ())):
            for name in ("pixel_values", "image_grid_thw", "num_images"):
                piece.pop(name, None)
    return pieces
