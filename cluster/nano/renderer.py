"""The seeded recipe that trains the nano image model (`actors.nano_pipeline`).

In: a folder, a seed, a number of steps. Out: a diffusers folder with bfloat16 safetensors. Every
batch is a function of (seed, step), and the state is saved as it goes, so a build that was stopped
goes on where it was and ends with the weights that it would have had.
Objective: flow matching, x_t = (1 - sigma) x_0 + sigma noise, with the network predicting x_0.
Fails with `ConfigError` when the folder holds the state of another recipe.
"""

import hashlib
import json
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch.nn.attention import SDPBackend, sdpa_kernel

from actors.nano_pipeline import (
    NUM_PATCHES,
    PATCH,
    PATCH_DIM,
    PROMPT_DIM,
    NanoEditPlusPipeline,
    encode_words,
    normalise,
    predict_clean,
)
from core.errors import ConfigError
from core.files import write_atomic
from envs.nano.flags import (
    COLOURS,
    LAYOUTS,
    PLAIN,
    SYMBOLS,
    Flag,
    PartialFlag,
    draw,
    random_flag,
)

logger = logging.getLogger(__name__)

BATCH_SIZE: Final = 32
LEARNING_RATE: Final = 2e-3
WARMUP_STEPS: Final = 100
NUM_STEPS: Final = 3600
"""Steps of the full build."""
OVERRIDES_FROM: Final = 1600
"""First draw and copy, then learn that words win over the reference."""
STATE_FILE: Final = "recipe_state.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One picture to learn: `target` is what words and reference ask for."""

    words: PartialFlag
    reference: Flag | None
    target: Flag


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Told after every save."""

    step: int
    num_steps: int
    loss: float
    """Mean squared error of the clean picture, averaged since the last report."""


def build_renderer(
    out_dir: Path,
    *,
    seed: int = 0,
    steps: int = NUM_STEPS,
    save_every: int = 200,
    progress: Callable[[Progress], None] | None = None,
) -> list[float]:
    """Train the image model and save its pipeline under `out_dir`; returns the losses it saw.

    A state left there by an interrupted build of the same recipe is gone on with.
    """
    training = _Training(seed=seed, steps=steps)
    state = out_dir / STATE_FILE
    if state.exists():
        training.load(state)
    losses: list[float] = []
    while training.step < steps:
        with _fast_attention():
            losses.append(training.advance())
        if training.step % save_every == 0 or training.step == steps:
            training.save(state)
            recent = losses[-save_every:]
            report = Progress(step=training.step, num_steps=steps, loss=sum(recent) / len(recent))
            logger.info("renderer step=%d/%d loss=%.5f", report.step, steps, report.loss)
            if progress is not None:
                progress(report)
    training.pipeline().save_pretrained(out_dir)
    state.unlink(missing_ok=True)
    return losses


def new_transformer() -> QwenImageTransformer2DModel:
    """A fresh network of 1.9 M parameters in pixel space."""
    return QwenImageTransformer2DModel(
        patch_size=PATCH,
        in_channels=PATCH_DIM,
        out_channels=3,
        num_layers=3,
        num_attention_heads=4,
        attention_head_dim=32,
        joint_attention_dim=PROMPT_DIM,
        axes_dims_rope=(8, 12, 12),
    )


def make_batch(*, seed: int, step: int) -> tuple[Example, ...]:
    """The examples of one step: all with a reference, or all without."""
    rng = random.Random(f"{seed}/{step}")
    late = step >= OVERRIDES_FROM
    if rng.random() < (0.7 if late else 0.45):
        shares = (0.0, 0.3, 0.5) if late else (0.0, 0.0, 0.3, 0.7)
        return tuple(_reference_example(rng, shares=shares) for _ in range(BATCH_SIZE))
    return tuple(_prompt_example(rng) for _ in range(BATCH_SIZE))


def data_digest(*, seed: int, steps: int) -> str:
    """SHA-256 of every example of the first `steps` steps; equal on every machine."""
    digest = hashlib.sha256()
    for step in range(steps):
        digest.update(repr(make_batch(seed=seed, step=step)).encode())
    return digest.hexdigest()


def _prompt_example(rng: random.Random) -> Example:
    target = random_flag(rng, banner=rng.random() < 0.85)
    words = _words_of(target)
    if rng.random() < 0.15:
        kept = {f.name for f in fields(words) if rng.random() < 0.6}
        words = PartialFlag(**{name: getattr(words, name) for name in kept})
    return Example(words=words, reference=None, target=target)


def _reference_example(rng: random.Random, *, shares: tuple[float, ...]) -> Example:
    """The reference's flag, with its year in words and some attributes said again or overridden.

    `shares` are the possible shares of attributes in words.
    """
    target = random_flag(rng, banner=rng.random() < 0.85)
    reference = replace(target, banner=None)
    said = {"banner": target.banner}
    share = rng.choice(shares)
    for name in ("layout", "field", "second", "symbol", "symbol_colour"):
        if rng.random() < share:
            said[name] = getattr(target, name)
            if rng.random() < 0.5:
                reference = _with_other(reference, name, rng)
    if reference.second is None and target.second is not None:
        said["second"] = target.second
    return Example(words=PartialFlag(**said), reference=reference, target=target)


def _with_other(flag: Flag, name: str, rng: random.Random) -> Flag:
    """`flag` with another value of one attribute."""
    tables = {"layout": LAYOUTS, "symbol": SYMBOLS}
    choices = [v for v in tables.get(name, tuple(COLOURS)) if v != getattr(flag, name)]
    value = rng.choice(choices)
    if name == "layout":
        second = None if value == PLAIN else flag.second or rng.choice(tuple(COLOURS))
        return replace(flag, layout=value, second=second)
    if name == "second" and flag.layout == PLAIN:
        return flag
    return replace(flag, **{name: value})


def _words_of(flag: Flag) -> PartialFlag:
    return PartialFlag(**{f.name: getattr(flag, f.name) for f in fields(flag)})


def _pictures(flags: Sequence[Flag]) -> torch.Tensor:
    return normalise(np.stack([draw(flag) for flag in flags]))


def _noise_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/noise".encode()).digest()[:7])


@contextmanager
def _fast_attention() -> Iterator[None]:
    """Plain bfloat16 attention: at this size three times as fast on a CPU as the fused kernel."""
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)


class _Training:
    """Network, moving average and optimizer of one build."""

    def __init__(self, *, seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        self.recipe = {"seed": seed, "steps": steps}
        self.step = 0
        self._network = new_transformer()
        self._average = {k: v.detach().clone() for k, v in self._network.named_parameters()}
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(),
            lr=LEARNING_RATE,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=True,
        )

    def advance(self) -> float:
        """One optimizer step; returns its loss."""
        batch = make_batch(seed=self.recipe["seed"], step=self.step)
        generator = torch.Generator().manual_seed(_noise_seed(self.recipe["seed"], self.step))
        clean = _pictures([example.target for example in batch])
        shown = [example.reference for example in batch if example.reference is not None]
        noise = torch.randn(len(batch), NUM_PATCHES, PATCH_DIM, generator=generator)
        sigma = torch.sigmoid(torch.randn(len(batch), generator=generator) * 1.2 + 0.8)
        sigma = torch.where(torch.rand(len(batch), generator=generator) < 0.3, 1.0, sigma)
        mix = sigma[:, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            guess = predict_clean(
                self._network,
                (1 - mix) * clean + mix * noise,
                sigma=sigma,
                prompt_embeds=encode_words([example.words for example in batch]),
                references=_pictures(shown) if shown else None,
            )
        loss = torch.nn.functional.mse_loss(guess.float(), clean)
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE * self._schedule()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        return float(loss.detach())

    def save(self, path: Path) -> None:
        tensors = {f"average.{name}": value for name, value in self._average.items()}
        for name, parameter in self._network.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach()
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        metadata = {"recipe": json.dumps(self.recipe), "step": str(self.step)}
        write_atomic(path, save_tensors(tensors, metadata))

    def load(self, path: Path) -> None:
        """Go on where `save` was called. Raises ConfigError for another recipe's state."""
        with safe_open(path, framework="pt") as file:
            found = json.loads(file.metadata()["recipe"])
            if found != self.recipe:
                raise ConfigError(
                    f"{path} belongs to the recipe {found}, not {self.recipe}; "
                    "delete it or build into another folder"
                )
            self.step = int(file.metadata()["step"])
            stored = set(file.keys())
            with torch.no_grad():
                for name, parameter in self._network.named_parameters():
                    parameter.copy_(file.get_tensor(f"weight.{name}"))
                    self._average[name].copy_(file.get_tensor(f"average.{name}"))
                    for key in ("step", "exp_avg", "exp_avg_sq"):
                        if f"{key}.{name}" in stored:  # not for weights that have no gradient
                            value = file.get_tensor(f"{key}.{name}")
                            self._optimizer.state[parameter][key] = value

    def pipeline(self) -> NanoEditPlusPipeline:
        """The averaged weights in bfloat16, ready to be saved."""
        network = new_transformer()
        network.load_state_dict(self._average, strict=True)
        torch.nn.Module.to(network, torch.bfloat16)  # diffusers' own `to` warns of no layers
        return NanoEditPlusPipeline(network.eval(), FlowMatchEulerDiscreteScheduler())

    def _schedule(self) -> float:
        done = self.step / self.recipe["steps"]
        decay = 0.5 * (1 + math.cos(math.pi * done))
        return min(1.0, (self.step + 1) / WARMUP_STEPS) * max(0.02, decay)

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(0.99, self.step / (self.step + 20))
        for name, parameter in self._network.named_parameters():
            self._average[name].lerp_(parameter, 1 - keep)
