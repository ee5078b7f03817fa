"""Supervised fine-tuning on DeepSpeed: it learns, stops and goes on, and saves a usable policy."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.signals import stopped_like_ctrl_c
from core.config import Config, build_config
from core.errors import ConfigError
from core.records import TrainingSample
from envs.chat import ChatFormat
from learners.checkpoint import latest_checkpoint
from learners.masters import Masters, OwnMasters, ZeroMasters
from learners.sft import SftStep, _Trainer, run_sft, split, teacher_samples
from tests.device import DEVICE
from tests.fakes.images import MemoryImageStore
from tests.hf_policy import HfPolicy
from tests.oracle_groups import make_oracle_groups
from tests.tiny_model import build_tiny_policy

pytestmark = pytest.mark.integration

MASTERS = OwnMasters if DEVICE == "cpu" else ZeroMasters


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = build_tiny_policy(folder)
        self.chat = ChatFormat.load(folder)
        self.store = MemoryImageStore()

    def config(self, *, steps: int = 6, **sft: Any) -> Config:
        return build_config(
            {
                "policy": {"path": str(self.folder)},
                "sft": {"steps": steps, "lr": 3e-3, "batch_size": 3} | sft,
                "learner": {"device": DEVICE, "micro_batch_tokens": 256},
                "train": {"checkpoint_every": 2, "keep_checkpoints": 2},
            }
        )

    def samples(self) -> list[TrainingSample]:
        groups = make_oracle_groups(
            HfPolicy(self.folder), self.chat, self.store, scores=[[1.0, 1.0], [1.0, 1.0]]
        )
        return teacher_samples([m.trajectory for g in groups for m in g.members if m.trajectory])

    def run(self, out: Path, steps: list[SftStep], *, stop_at: int | None = None) -> Path:
        def progress(step: SftStep) -> None:
            steps.append(step)
            if step.step == stop_at:
                raise KeyboardInterrupt

        return run_sft(
            self.config(eval_share=0.25, eval_every=4),
            self.samples(),
            chat=self.chat,
            images=self.store,
            folder=out,
            progress=progress,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("policy"))


def test_the_loss_falls_and_an_interrupted_run_ends_bit_equal(world: World, tmp_path: Path) -> None:
    whole: list[SftStep] = []
    expected = HfPolicy(world.run(tmp_path / "whole", whole)).model.state_dict()
    assert [step.step for step in whole] == [1, 2, 3, 4, 5, 6]
    assert whole[-1].loss < 0.8 * whole[0].loss
    assert [f"{step.lr:.2e}" for step in whole[:2]] == ["3.00e-03", "3.00e-03"]
    assert whole[-1].lr < 0.2 * whole[0].lr
    assert [step.step for step in whole if step.eval_loss is not None] == [4, 6]

    halves: list[SftStep] = []
    with pytest.raises(KeyboardInterrupt):
        world.run(tmp_path / "halves", halves, stop_at=3)
    (tmp_path / "halves" / ".step_000002.draft-0f").mkdir()  # of a process that was killed
    last = latest_checkpoint(tmp_path / "halves")
    assert last is not None
    assert last.name == "step_000003"
    resumed = HfPolicy(world.run(tmp_path / "halves", halves)).model.state_dict()
    assert halves == whole
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    kept = sorted(path.name for path in (tmp_path / "halves").iterdir())
    assert kept == ["step_000004", "step_000006"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_inside_of_an_optimizer_step_waits_for_its_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    expected: list[SftStep] = []
    whole = HfPolicy(world.run(tmp_path / "whole", expected)).model.state_dict()
    step = MASTERS.step

    def stopped(masters: Masters, **settings: float) -> float:
        norm = step(masters, **settings)
        steps.append(norm)
        if len(steps) == 3:
            signal.raise_signal(number)
        return norm

    steps: list[float] = []
    told: list[SftStep] = []
    monkeypatch.setattr(MASTERS, "step", stopped)
    with stopped_like_ctrl_c(), pytest.raises(KeyboardInterrupt):
        world.run(tmp_path / "halves", told)
    last = latest_checkpoint(tmp_path / "halves")
    assert last is not None
    assert last.name == "step_000003"
    resumed = HfPolicy(world.run(tmp_path / "halves", told)).model.state_dict()
    assert len(steps) == 6
    assert told == expected
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_stop_inside_of_an_evaluation_does_not_lose_the_step_before_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*unused: Any) -> float:
        raise KeyboardInterrupt

    told: list[SftStep] = []
    with monkeypatch.context() as patched:
        patched.setattr(_Trainer, "evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            world.run(tmp_path, told)
    assert [step.step for step in told] == [1, 2, 3, 4]
    world.run(tmp_path, told)
    assert [step.step for step in told] == [1, 2, 3, 4, 5, 6]


def test_the_loss_is_plain_cross_entropy_of_the_assistants_tokens(
    world: World, tmp_path: Path
) -> None:
    (sample, *_) = world.samples()
    oracle = HfPolicy(world.folder)
    first = sample.loss_mask.index(1)
    logprobs = oracle.logprobs(
        sample.token_ids[:first],
        sample.token_ids[first:],
        pngs=[world.store.get(image.ref) for image in sample.images],
        temperature=1.0,
        banned_ids=(),
    )
    mask = torch.tensor(sample.loss_mask[first:], dtype=torch.bool)
    steps: list[SftStep] = []
    run_sft(
        world.config(steps=1),
        [sample],
        chat=world.chat,
        images=world.store,
        folder=tmp_path / "out",
        progress=steps.append,
    )
    expected = -torch.from_numpy(logprobs)[mask].mean().item()
    assert steps[0].loss == pytest.approx(expected, abs=1e-4)
    assert steps[0].num_tokens == 3 * int(mask.sum())
    assert steps[0].eval_loss is None, "one sample has no share to hold out"


def test_the_held_out_loss_is_of_samples_that_are_not_trained_on(
    world: World, tmp_path: Path
) -> None:
    samples = world.samples()
    trained, heldout = split(samples, share=0.25, seed=0)
    assert (len(trained), len(heldout)) == (3, 1)
    losses: dict[str, SftStep] = {}
    for name, chosen, share in (("apart", samples, 0.25), ("alone", heldout, 0.0)):
        run_sft(
            world.config(steps=1, lr=1e-9, eval_share=share),
            chosen,
            chat=world.chat,
            images=world.store,
            folder=tmp_path / name,
            progress=lambda step, name=name: losses.__setitem__(name, step),
        )
    assert losses["apart"].eval_loss == pytest.approx(losses["alone"].loss, abs=1e-4)


def test_nothing_to_learn_from_is_said(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to fine-tune on"):
        run_sft(
            world.config(),
            [],
            chat=world.chat,
            images=world.store,
            folder=tmp_path,
            progress=lambda step: None,
        )
