"""The recipe of the nano base policy: seeded, resumable, from nothing to a model folder.

In: a folder, a seed and a scale. Out: a Hugging Face folder that transformers and vLLM load
(bf16 safetensors, tokenizer, processor, chat template). Four stages: dense exercises, then
mostly whole episodes of an exact teacher, then more of choosing among images, then a short
imitation of a sloppy teacher, which leaves the skills in place and the behaviour to be improved.
Batch number `step` is a pure function of seed and step, so a build that was stopped goes on where
its last checkpoint was. docs/nano.md says how the shipped weights were made.
"""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from cluster.nano.attention import use_fast_attention
from cluster.nano.documents import Document, Episodes, Maker, echo, encode, gallery, look, recall
from cluster.nano.model import Batch, build_model, collate
from cluster.nano.tokenizer import build_tokenizer, save_processor
from core.errors import ConfigError
from core.files import write_atomic, write_json_atomic
from envs.nano.teacher import FAULTLESS, SLOPPY, Habits

MICRO_BATCH_TOKENS: Final = 4096
WARMUP_STEPS: Final = 20
STATE_FILE: Final = "state.json"
VECTOR_RATE: Final = 2.0
"""Learning rate of embeddings, norms and biases over that of the matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Example: a stage of 100 steps of 8192 tokens, all of them recitation."""

    name: str
    steps: int
    shares: dict[str, float]
    """Share of the tokens by sort of document."""
    habits: Habits = FAULTLESS
    grow: bool = False
    """True: exercises grow from their smallest to their full size within the stage."""
    tokens_per_step: int = 8192
    learning_rate: float = 4e-3
    final_learning_rate: float = 4e-3
    """Reached linearly at the end of the stage."""


STAGES: Final = (
    Stage(
        name="exercises",
        steps=320,
        shares={"echo": 0.4, "recall": 0.25, "look": 0.1, "gallery": 0.25},
        grow=True,
        tokens_per_step=4096,
    ),
    Stage(
        name="episodes",
        steps=420,
        shares={"episode": 0.6, "echo": 0.05, "recall": 0.08, "look": 0.05, "gallery": 0.22},
        final_learning_rate=1.5e-4,
    ),
    Stage(
        name="choice",
        steps=130,
        shares={"episode": 0.45, "gallery": 0.5, "echo": 0.05},
        tokens_per_step=6144,
        learning_rate=2e-3,
        final_learning_rate=1.5e-4,
    ),
    Stage(
        name="sloppy",
        steps=70,
        shares={"episode": 1.0},
        habits=SLOPPY,
        tokens_per_step=6144,
        learning_rate=8e-4,
        final_learning_rate=5e-5,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One finished step."""

    stage: str
    step: int
    num_steps: int
    loss: float


def stage_of(stages: Sequence[Stage], step: int) -> tuple[Stage, int]:
    """The stage of step number `step` and the number of the step within it."""
    for stage in stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise ValueError(f"step {step} lies beyond the last stage")


def documents_of(
    stage: Stage, *, seed: int, step: int, done: float, tokenizer: PreTrainedTokenizerFast
) -> list[Document]:
    """The documents of one step, `done` being the finished share of its stage.

    A pure function of its arguments.
    """
    rng = random.Random(f"nano policy {seed} {step}")
    makers: dict[str, Maker] = {
        "echo": echo,
        "recall": recall,
        "look": look,
        "gallery": gallery,
        "episode": Episodes(seed=f"{seed} {step}", habits=stage.habits),
    }
    documents = []
    for sort, share in stage.shares.items():
        left = share * stage.tokens_per_step
        while left > 0:
            documents.append(encode(tokenizer, *makers[sort](rng, done if stage.grow else 1.0)))
            left -= len(documents[-1].token_ids)
    return documents


def micro_batches(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast
) -> Iterator[Batch]:
    """Documents of like length together, so that little is padded."""
    image_id = int(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    rows: list[Document] = []
    for document in sorted(documents, key=lambda d: len(d.token_ids)):
        if rows and (len(rows) + 1) * len(document.token_ids) > MICRO_BATCH_TOKENS:
            yield collate(rows, pad_id=int(tokenizer.pad_token_id), image_id=image_id)
            rows = []
        rows.append(document)
    yield collate(rows, pad_id=int(tokenizer.pad_token_id), image_id=image_id)


def batch_loss(model: Qwen3VLForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Sum over the weighted targets of their cross-entropy.

    No attention mask: padding stands on the right, where causal attention cannot see it.
    """
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch.token_ids,
            position_ids=batch.positions,
            use_cache=False,
            **batch.images,
        ).last_hidden_state
        learnt = batch.weights[:, 1:] > 0
        logits = model.lm_head(hidden[:, :-1][learnt])
    loss = functional.cross_entropy(
        logits.float(), batch.token_ids[:, 1:][learnt], reduction="none"
    )
    return (loss * batch.weights[:, 1:][learnt]).sum()


class Optimizer:
    """Muon for the matrices, AdamW for embeddings, norms and biases."""

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        matrices: list[torch.nn.Parameter] = []
        rest: list[torch.nn.Parameter] = []
        for name, parameter in model.named_parameters():
            is_matrix = parameter.ndim == 2 and "embed" not in name
            (matrices if is_matrix else rest).append(parameter)
        self._parts = (
            torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self._parameters = [*matrices, *rest]

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor of the optimizers' state, by place and name."""
        return {
            f"{number}.{place}.{name}": torch.as_tensor(value)
            for number, part in enumerate(self._parts)
            for place, entry in part.state_dict()["state"].items()
            for name, value in entry.items()
        }

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for number, part in enumerate(self._parts):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in tensors.items():
                owner, place, name = key.split(".")
                if int(owner) == number:
                    state.setdefault(int(place), {})[name] = value
            part.load_state_dict({**part.state_dict(), "state": state})

    def step(self, learning_rate: float) -> None:
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for part in self._parts:
            factor = VECTOR_RATE if isinstance(part, torch.optim.AdamW) else 1.0
            for group in part.param_groups:
                group["lr"] = factor * learning_rate
            part.step()
            part.zero_grad(set_to_none=True)


def train_step(
    model: Qwen3VLForConditionalGeneration,
    optimizer: Optimizer,
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerFast,
    *,
    learning_rate: float,
) -> float:
    """One optimizer step; returns the mean loss of a weighted token before it."""
    total_weight = sum(sum(document.weights) for document in documents)
    total = 0.0
    for batch in micro_batches(documents, tokenizer):
        loss = batch_loss(model, batch) / total_weight
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    optimizer.step(learning_rate)
    return total


def learning_rate_at(stage: Stage, step_in_stage: int, *, step: int) -> float:
    done = step_in_stage / stage.steps
    rate = stage.learning_rate + done * (stage.final_learning_rate - stage.learning_rate)
    return rate * min(1.0, (step + 1) / WARMUP_STEPS)


def build_policy(
    out_dir: Path,
    *,
    seed: int = 0,
    scale: float = 1.0,
    progress: Callable[[Progress], None] = lambda _: None,
    checkpoint_every: int = 50,
) -> Path:
    """Train the base policy and write its folder; goes on from `<out_dir>.building` if that exists.

    `scale` multiplies the steps of every stage. Returns
    `out_dir`. Raises ConfigError when the unfinished build there had another seed or scale.
    """
    stages = scaled(STAGES, scale)
    building = out_dir.with_name(f"{out_dir.name}.building")
    recipe = {"seed": seed, "scale": scale}
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=seed)
    use_fast_attention(model)
    optimizer = Optimizer(model)
    start = _resume(building, recipe, model, optimizer)
    num_steps = sum(stage.steps for stage in stages)
    for step in range(start, num_steps):
        stage, step_in_stage = stage_of(stages, step)
        documents = documents_of(
            stage, seed=seed, step=step, done=step_in_stage / stage.steps, tokenizer=tokenizer
        )
        rate = learning_rate_at(stage, step_in_stage, step=step)
        loss = train_step(model, optimizer, documents, tokenizer, learning_rate=rate)
        progress(Progress(stage=stage.name, step=step + 1, num_steps=num_steps, loss=loss))
        if (step + 1) % checkpoint_every == 0:
            _checkpoint(building, {**recipe, "step": step + 1}, model, optimizer)
    save_policy(model, out_dir)
    shutil.rmtree(building, ignore_errors=True)
    return out_dir


def scaled(stages: Sequence[Stage], scale: float) -> tuple[Stage, ...]:
    """The same stages with `scale` times the steps; below 1.0 the steps shrink too, by its root."""
    share = min(1.0, scale**0.5)
    return tuple(
        replace(
            stage,
            steps=max(1, round(stage.steps * scale)),
            tokens_per_step=round(stage.tokens_per_step * share),
        )
        for stage in stages
    )


def save_policy(model: Qwen3VLForConditionalGeneration, folder: Path) -> None:
    """A folder that transformers and vLLM load: bf16 weights, config, tokenizer, processor."""
    folder.mkdir(parents=True, exist_ok=True)
    save_processor(folder)
    shipped = copy.deepcopy(model).to(torch.bfloat16)
    shipped.set_attn_implementation("sdpa")
    shipped.save_pretrained(folder)


def _checkpoint(
    folder: Path,
    state: Mapping[str, int | float],
    model: Qwen3VLForConditionalGeneration,
    optimizer: Optimizer,
) -> None:
    """Weights and moments, then the step that they belong to; each file whole or not at all."""
    tensors = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
    name = f"step-{state['step']}.safetensors"
    write_atomic(folder / name, save({key: t.contiguous() for key, t in tensors.items()}))
    write_json_atomic(folder / STATE_FILE, {**state, "tensors": name})
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def _resume(
    folder: Path,
    recipe: Mapping[str, int | float],
    model: Qwen3VLForConditionalGeneration,
    optimizer: Optimizer,
) -> int:
    """Load the last checkpoint, if there is one; returns the number of steps done."""
    path = folder / STATE_FILE
    if not path.exists():
        return 0
    state = json.loads(path.read_text())
    for key, value in recipe.items():
        if state[key] != value:
            raise ConfigError(
                f"{folder} holds a build with {key} {state[key]}, not {value}; "
                f"give {key} {state[key]} to finish it, or delete the folder"
            )
    tensors = load_file(folder / state["tensors"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    prefix = "optimizer."
    optimizer.load({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return int(state["step"])
