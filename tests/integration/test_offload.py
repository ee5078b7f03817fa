"""The optimizer in host memory, as a learner on a GPU has it, with the compute on a CPU.

DeepSpeed then takes other paths: gradients leave pack by pack, and masters come back in a copy.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import LearnerError
from core.sections.learner import LearnerConfig
from envs.chat import ChatFormat
from learners import engine
from learners.engine import TrainEngine, deepspeed_config
from learners.flat import DTYPES
from tests.fakes.images import MemoryImageStore
from tests.learner_world import World, weights_of
from tests.tiny_model import build_tiny_policy

pytestmark = pytest.mark.integration

KINDS = pytest.mark.parametrize(
    ("dtype", "zero_stage"),
    [("float32", 1), ("bfloat16", 1), ("bfloat16", 2), ("bfloat16", 3)],
)


@pytest.fixture(autouse=True)
def settings_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def offloading(config: LearnerConfig) -> dict[str, Any]:
        return deepspeed_config(config.model_copy(update={"device": "cuda"}))

    monkeypatch.setattr(engine, "deepspeed_config", offloading)


def take_step(engine: TrainEngine, *, times: float = 1.0) -> float:
    inputs = torch.ones(2, 4, dtype=next(engine._engine.module.parameters()).dtype)
    for _ in range(2):
        engine.backward(engine.forward(inputs).float().square().sum() * times)
    return engine.step(lr=0.1, divide_by=4.0)


@KINDS
def test_a_gradient_that_is_not_finite_changes_nothing(dtype: str, zero_stage: int) -> None:
    norms = []
    for times in (None, float("nan")):
        torch.manual_seed(0)
        config = LearnerConfig.model_validate({"dtype": dtype, "zero_stage": zero_stage})
        engine = TrainEngine(torch.nn.Linear(4, 3).to(DTYPES[dtype]), config=config)
        take_step(engine)
        if times is not None:
            with pytest.raises(LearnerError, match="step 1 is not finite; nothing changed"):
                take_step(engine, times=times)
        norms.append(take_step(engine))
        engine.close()
    assert norms[0] == norms[1]


@pytest.mark.parametrize(("dtype", "zero_stage"), [("float32", 1), ("bfloat16", 2), ("float32", 3)])
def test_resume_is_bit_exact(tmp_path: Path, dtype: str, zero_stage: int) -> None:
    folder = build_tiny_policy(tmp_path / "policy")
    world = World(folder=folder, chat=ChatFormat.load(folder), store=MemoryImageStore())
    steps = [world.groups(seed=seed) for seed in range(2)]
    settings = {"dtype": dtype, "zero_stage": zero_stage}
    with world.learner(**settings) as learner:
        learner.update(steps[0])
        learner.save(str(tmp_path / "half"))
        learner.update(steps[1])
        expected = weights_of(learner)
    with world.learner(**settings) as learner:
        learner.load(str(tmp_path / "half"))
        learner.update(steps[1])
        resumed = weights_of(learner)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
