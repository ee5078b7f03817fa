"""How good a built nano image model is, measured by the pixel reader on fresh flags.

In: a pipeline, called as the render actor calls it. Out: a `RendererQuality`. The flags come from
a stream of seeds that training does not use.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from actors.nano_pipeline import NanoEditPlusPipeline
from cluster.nano.judge import nano_tables
from envs.nano.flags import SYMBOLS, Flag, describe, draw, encode_png, random_flag
from rewards.flag_reader import FlagReader, Reading

ATTRIBUTES = ("layout", "field", "second", "symbol", "symbol_colour", "banner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Shares in [0, 1]."""

    exact: float
    """Pictures with every attribute right."""
    mean_attribute: float
    by_attribute: tuple[tuple[str, float], ...]
    impurity: float
    """Mean distance of pixels to the palette; 0 is clean."""
    seconds: float
    """Per picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RendererQuality:
    """The three things that the model must do, each over `num` pictures."""

    num: int
    reference_and_banner: Accuracy
    """Two references, an ordinal, and the year in words."""
    prompt_only: Accuracy
    """A whole description."""
    override: Accuracy
    """A reference, the year, and another symbol in words."""


def measure_renderer(
    pipeline: NanoEditPlusPipeline, *, num: int = 100, steps: int = 4, seed: int = 1
) -> RendererQuality:
    """Draw `num` flags in each of three ways and read them back."""
    rng = random.Random(f"check/{seed}")
    flags = [random_flag(rng, banner=True) for _ in range(num)]
    others = [random_flag(rng) for _ in range(num)]
    changed = [
        replace(flag, symbol=rng.choice([s for s in SYMBOLS if s != flag.symbol])) for flag in flags
    ]
    plain = [_picture(replace(flag, banner=None)) for flag in flags]

    def measure(
        wanted: Sequence[Flag], prompts: Sequence[str], images: Sequence[list[Image.Image] | None]
    ) -> Accuracy:
        started = time.perf_counter()
        drawn = [
            pipeline(
                image=image,
                prompt=prompt,
                num_inference_steps=steps,
                generator=torch.Generator().manual_seed(number),
                output_type="np",
            ).images[0]
            for number, (prompt, image) in enumerate(zip(prompts, images, strict=True))
        ]
        seconds = (time.perf_counter() - started) / len(drawn)
        return _accuracy(wanted, drawn, seconds=seconds)

    return RendererQuality(
        num=num,
        reference_and_banner=measure(
            flags,
            [f"flag of the second reference image banner {flag.banner}" for flag in flags],
            [[_picture(other), image] for other, image in zip(others, plain, strict=True)],
        ),
        prompt_only=measure(flags, [describe(flag) for flag in flags], [None] * num),
        override=measure(
            changed,
            [f"{flag.symbol} banner {flag.banner}" for flag in changed],
            [[image] for image in plain],
        ),
    )


def _picture(flag: Flag) -> Image.Image:
    return Image.fromarray(draw(flag))


def _accuracy(wanted: Sequence[Flag], drawn: Sequence[np.ndarray], *, seconds: float) -> Accuracy:
    reader = FlagReader(nano_tables())
    readings = [reader.read(encode_png(picture)) for picture in drawn]
    right = {
        name: [_agrees(r, flag, name) for r, flag in zip(readings, wanted, strict=True)]
        for name in ATTRIBUTES
    }
    return Accuracy(
        exact=float(np.mean(np.all(list(right.values()), axis=0))),
        mean_attribute=float(np.mean(list(right.values()))),
        by_attribute=tuple((name, float(np.mean(hits))) for name, hits in right.items()),
        impurity=float(np.mean([reading.impurity for reading in readings])),
        seconds=seconds,
    )


def _agrees(reading: Reading, flag: Flag, name: str) -> bool:
    return bool(getattr(reading, name) == getattr(flag, name))
