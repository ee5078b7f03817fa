"""DeepSpeed's engine alone, on a single layer."""

import pytest
import torch

from core.errors import LearnerError
from core.sections.learner import LearnerConfig
from learners.engine import TrainEngine

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_gradient_that_is_not_finite_changes_nothing(zero_stage: int) -> None:
    config = LearnerConfig(dtype="bfloat16", zero_stage=zero_stage, max_grad_norm=1.0)
    engine = TrainEngine(torch.nn.Linear(4, 3).bfloat16(), config=config)
    inputs = torch.ones(2, 4, dtype=torch.bfloat16)
    try:
        engine.backward(engine.forward(inputs).float().sum())
        norm = engine.step(lr=0.1)
        before = engine.state_tensors()
        engine.backward(engine.forward(inputs).float().sum() * float("nan"))
        with pytest.raises(LearnerError, match="step 1 is not finite; nothing changed"):
            engine.step(lr=0.1)
        after = engine.state_tensors()
        assert engine.step_count == 1
        assert {name for name in before if not torch.equal(before[name], after[name])} == set()
        engine.backward(engine.forward(inputs).float().sum())
        assert engine.step(lr=0.1) == pytest.approx(norm), "no old gradient is left"
    finally:
        engine.close()
