"""The recipe of the nano image model: the same data everywhere, resumable, and it learns."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.nano_pipeline import NanoEditPlusPipeline
from cluster.nano.renderer import (
    OVERRIDES_FROM,
    STATE_FILE,
    Progress,
    build_renderer,
    data_digest,
    make_batch,
)
from cluster.nano.renderer_check import measure_renderer
from core.errors import ConfigError
from envs.nano.flags import draw

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_data_are_the_same_on_every_machine() -> None:
    assert data_digest(seed=0, steps=20) == (
        "f9446d5f20a99e442ff89558d008920a0ddbd1675d7e2246b2c1931309676466"
    )
    assert data_digest(seed=1, steps=20) != data_digest(seed=0, steps=20)


@pytest.mark.parametrize("first_step", [0, OVERRIDES_FROM])
def test_words_and_reference_always_determine_the_target(first_step: int) -> None:
    """Where a reference is shown, whatever it shows differently or lacks is said in words."""
    for step in range(first_step, first_step + 30):
        for example in make_batch(seed=0, step=step):
            draw(example.target)
            if example.reference is None:
                continue
            for name in ("layout", "field", "second", "symbol", "symbol_colour", "banner"):
                wanted, said = getattr(example.target, name), getattr(example.words, name)
                assert said is None or said == wanted
                shown = getattr(example.reference, name)
                plain = name == "second" and example.target.layout == "plain"
                assert said == wanted or shown == wanted or plain


def test_an_interrupted_build_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    losses = build_renderer(whole, seed=3, steps=4)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_renderer(parts, seed=3, steps=4, save_every=2, progress=stop)
    with pytest.raises(ConfigError, match="belongs to the recipe"):
        build_renderer(parts, seed=4, steps=4)
    assert build_renderer(parts, seed=3, steps=4) == losses[2:]
    expected, found = load_file(whole / WEIGHTS), load_file(parts / WEIGHTS)
    assert all(found[name].equal(value) for name, value in expected.items())
    assert not (parts / STATE_FILE).exists()


def test_a_small_build_learns_and_loads(tmp_path: Path) -> None:
    losses = build_renderer(tmp_path, seed=0, steps=24)
    assert sum(losses[:4]) / 4 == pytest.approx(0.936, rel=0.05)
    assert sum(losses[-4:]) / 4 == pytest.approx(0.786, rel=0.2)
    NanoEditPlusPipeline.from_pretrained(tmp_path)


@pytest.mark.integration
def test_the_shipped_model_draws_copies_and_obeys_words() -> None:
    pipeline = NanoEditPlusPipeline.from_pretrained("models/nano/renderer", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    quality = measure_renderer(pipeline, num=20, steps=2)
    assert quality.reference_and_banner.exact >= 0.95
    assert quality.prompt_only.mean_attribute >= 0.95
    assert quality.override.mean_attribute >= 0.95
    assert quality.reference_and_banner.impurity < 12  # clean, by the pixel judge's threshold
