import math

import pytest
import torch

import learners.head
from learners.head import token_scores


def test_scores_use_the_temperature_and_leave_banned_ids_out() -> None:
    weight = torch.tensor([[0.0], [2.0], [5.0]])
    scores = token_scores(
        torch.ones(2, 1), weight, torch.tensor([0, 1]), temperature=2.0, banned_ids=(2,)
    )
    # logits / 2 over {0, 1}: 0 and 1
    total = 1 + math.e
    assert scores.logprobs.tolist() == pytest.approx([-math.log(total), 1 - math.log(total)])
    p = math.e / total
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert scores.entropy.tolist() == pytest.approx([entropy, entropy])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_fused_head_has_the_values_and_gradients_of_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(301, 16).to(dtype).requires_grad_()
    hidden = torch.randn(37, 16).to(dtype).requires_grad_()
    ids = torch.randint(0, 290, (37,))

    def run() -> tuple[torch.Tensor, ...]:
        scores = token_scores(hidden, weight, ids, temperature=0.7, banned_ids=(299, 300))
        assert not scores.entropy.requires_grad
        gradients = torch.autograd.grad(
            (scores.logprobs * torch.linspace(-1, 1, 37)).sum(), [hidden, weight]
        )
        return scores.logprobs.detach(), scores.entropy, *gradients

    plain = run()
    monkeypatch.setattr(learners.head, "PLAIN_LOGITS", 0)
    monkeypatch.setattr(learners.head, "CHUNK_ROWS", 8)
    for one, other in zip(plain, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_fused_head_adds_to_the_gradient_of_the_packs_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    packs = [(torch.randn(6, 4), torch.randint(0, 9, (6,))) for _ in range(3)]

    def gradient(plain_logits: int) -> torch.Tensor:
        monkeypatch.setattr(learners.head, "PLAIN_LOGITS", plain_logits)
        weight = torch.linspace(-1, 1, 36).reshape(9, 4).requires_grad_()
        for hidden, ids in packs:
            scores = token_scores(hidden, weight, ids, temperature=1.0, banned_ids=())
            # A tied weight is used elsewhere too.
            (scores.logprobs.sum() + weight[ids].square().sum()).backward()
        assert weight.grad is not None
        return weight.grad

    torch.testing.assert_close(gradient(0), gradient(1000))


def test_a_frozen_head_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners.head, "PLAIN_LOGITS", 0)
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    scores = token_scores(hidden, weight, torch.tensor([0, 1, 2]), temperature=1.0, banned_ids=())
    scores.logprobs.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
