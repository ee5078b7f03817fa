import math

import pytest
import torch

from learners.objectives.aggregation import normaliser, token_weights
from learners.objectives.kl import Estimator, kl
from learners.objectives.overlong import overlong_penalty
from learners.objectives.surrogate import sequence_mean
from tests.builders import make_sample


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", math.log(2)),
        ("k2", math.log(2) ** 2 / 2),
        ("k3", 0.5 - 1 + math.log(2)),
    ],
)
def test_the_estimates_of_the_kl(estimator: Estimator, expected: float) -> None:
    policy, reference = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert kl(policy, reference, estimator=estimator).item() == pytest.approx(expected)


def test_only_k2_pulls_towards_the_reference_on_average() -> None:
    """The gradient of each estimate as a loss, over tokens drawn from the policy itself."""
    logits = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    reference = torch.tensor([0.5, 0.2, 0.3]).log()
    policy = logits.log_softmax(0)
    p = policy.exp().detach()
    (true,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)

    def expected_gradient(estimator: Estimator) -> torch.Tensor:
        loss = (p * kl(logits.log_softmax(0), reference, estimator=estimator)).sum()
        return torch.autograd.grad(loss, logits)[0]

    torch.testing.assert_close(expected_gradient("k1"), torch.zeros(3))
    torch.testing.assert_close(expected_gradient("k2"), true)


def test_a_sequences_mean_stands_at_each_of_its_tokens() -> None:
    means = sequence_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1, 1, 0]))
    assert means.tolist() == [2.0, 2.0, 5.0]


def test_what_the_modes_divide_by() -> None:
    samples = [make_sample(completion_ids=(7,) * 3), make_sample(completion_ids=(7,))]
    sequences = torch.tensor([0, 0, 0, 1])
    assert normaliser(samples, mode="token_mean") == 4
    assert normaliser(samples, mode="sequence_mean") == 2
    assert normaliser(samples, mode="sequence_mean_token_sum") == 2
    assert token_weights(sequences, mode="token_mean").tolist() == [1] * 4
    third = pytest.approx(1 / 3)
    assert token_weights(sequences, mode="sequence_mean").tolist() == [third] * 3 + [1]


@pytest.mark.parametrize(("length", "penalty"), [(79, 0.0), (80, 0.0), (90, -0.5), (120, -1.0)])
def test_the_last_tokens_before_the_limit_cost(length: int, penalty: float) -> None:
    assert overlong_penalty(length, limit=100, buffer=20) == pytest.approx(penalty)
