"""DeepSpeed's engine alone, on a single layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from core.errors import LearnerError
from core.sections.learner import LearnerConfig
from learners import head
from learners.engine import TrainEngine
from learners.flat import DTYPES
from learners.head import token_scores
from tests.device import DEVICE

pytestmark = pytest.mark.integration


KINDS = pytest.mark.parametrize(
    ("dtype", "zero_stage"),
    [("float32", None), ("float32", 1), ("bfloat16", 1), ("bfloat16", 2), ("bfloat16", 3)],
)


@contextmanager
def opened(dtype: str, zero_stage: int | None) -> Iterator[TrainEngine]:
    config = LearnerConfig.model_validate(
        {"device": DEVICE, "dtype": dtype, "zero_stage": zero_stage, "max_grad_norm": 1.0}
    )
    torch.manual_seed(0)
    engine = TrainEngine(torch.nn.Linear(4, 3).to(DTYPES[dtype]), config=config)
    try:
        yield engine
    finally:
        engine.close()


def take_step(engine: TrainEngine, *, times: float = 1.0) -> float:
    dtype = next(engine._engine.module.parameters()).dtype
    inputs = torch.ones(2, 4, dtype=dtype, device=engine.device)
    engine.backward(engine.forward(inputs).float().square().sum() * times)
    return engine.step(lr=0.1, divide_by=2.0)


def different(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> set[str]:
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not torch.equal(ours[name], theirs[name])}


@KINDS
def test_a_gradient_that_is_not_finite_changes_nothing(dtype: str, zero_stage: int | None) -> None:
    with opened(dtype, zero_stage) as engine:
        take_step(engine)
        before = engine.state_tensors()
        with pytest.raises(LearnerError, match="step 1 is not finite; nothing changed"):
            take_step(engine, times=float("nan"))
        assert different(before, engine.state_tensors()) == set()
        assert engine.step_count == 1
        norm = take_step(engine)
    with opened(dtype, zero_stage) as engine:
        take_step(engine)
        assert take_step(engine) == pytest.approx(norm), "an old gradient was left"


@KINDS
def test_a_state_is_taken_up_by_an_engine_that_went_another_way(
    dtype: str, zero_stage: int | None
) -> None:
    with opened(dtype, zero_stage) as engine:
        states = [engine.state_tensors()]
        for _ in range(3):
            take_step(engine)
            states.append(engine.state_tensors())
        for step_count in (1, 0):
            with engine.full_weights(write=True) as module, torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(states[step_count][f"master/{name}"])
            engine.load_state(states[step_count], step_count=step_count)
            take_step(engine)
            assert different(engine.state_tensors(), states[step_count + 1]) == set()


def test_masters_of_its_own_are_those_that_zero_keeps() -> None:
    with opened("float32", None) as own, opened("float32", 1) as zero:
        for _ in range(3):
            assert take_step(own) == pytest.approx(take_step(zero), rel=1e-6)
        ours, theirs = own.state_tensors(), zero.state_tensors()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("zero_stage", [None, 2, 3])
def test_small_gradients_of_bfloat16_add_up_beside_a_large_one(zero_stage: int | None) -> None:
    """d/dw of w x is x: 1,024 and 64 times 1, of which bfloat16 would keep 1,024 alone."""
    config = LearnerConfig(
        device=DEVICE, dtype="bfloat16", zero_stage=zero_stage, max_grad_norm=1e9
    )
    engine = TrainEngine(torch.nn.Linear(1, 1, bias=False).bfloat16(), config=config)
    for size in (1024, *[1] * 64):
        inputs = torch.full((1, 1), size, dtype=torch.bfloat16, device=engine.device)
        engine.backward(engine.forward(inputs).sum())
    norm = engine.step(lr=0.1)
    engine.close()
    assert norm == 1088


class Untied(torch.nn.Module):
    """Words in, scores of the next ones out, through a head that is not the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(50, 8)
        self.head = torch.nn.Linear(8, 50, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden, weight = self.words(ids).tanh(), self.head.weight
        return token_scores(hidden, weight, ids.roll(1), temperature=1.0, banned_ids=()).logprobs


@pytest.mark.parametrize("zero_stage", [None, 1, 2, 3])
def test_a_fused_head_of_its_own_gathers_the_gradients_of_several_packs(
    zero_stage: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused head adds to the gradient that is there, past DeepSpeed's hooks."""
    norms = []
    for stage, plain_logits in ((None, head.PLAIN_LOGITS), (zero_stage, 0)):
        monkeypatch.setattr(head, "PLAIN_LOGITS", plain_logits)
        torch.manual_seed(0)
        engine = TrainEngine(Untied(), config=LearnerConfig(device=DEVICE, zero_stage=stage))
        for _ in range(3):
            for first in (0, 10, 30):
                ids = torch.arange(first, first + 20, device=engine.device)
                engine.backward(-engine.forward(ids).sum())
            norms.append(engine.step(lr=0.01, divide_by=60.0))
        engine.close()
    assert norms[3:] == pytest.approx(norms[:3], rel=1e-5)
