import math

import pytest
import torch

import learners.loss
from learners.loss import TokenTargets, TokenTrace, policy_loss, summarise, token_scores


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def targets(
    rollout: torch.Tensor,
    advantages: list[float],
    *,
    off_policy: bool = False,
    anchor: torch.Tensor | None = None,
) -> TokenTargets:
    flags = torch.full((len(advantages),), off_policy)
    return TokenTargets(
        rollout_logprobs=rollout,
        anchor_logprobs=anchor,
        advantages=torch.tensor(advantages),
        off_policy=flags,
        after_image=torch.zeros(len(advantages), dtype=torch.bool),
    )


def loss_of(
    logprobs: torch.Tensor, known: TokenTargets, *, tis_cap: float | None = 2.0, total: float = 1.0
) -> tuple[float, TokenTrace]:
    loss, trace = policy_loss(
        logprobs,
        torch.zeros(len(logprobs)),
        known,
        clip_low=0.2,
        clip_high=0.28,
        tis_cap=tis_cap,
        normaliser=total,
    )
    return loss.item(), trace


def test_scores_use_the_temperature_and_leave_banned_ids_out() -> None:
    head = torch.nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[0.0], [2.0], [5.0]])
    scores = token_scores(
        torch.ones(2, 1), head, torch.tensor([0, 1]), temperature=2.0, banned_ids=(2,)
    )
    # logits / 2 over {0, 1}: 0 and 1
    total = 1 + math.e
    assert scores.logprobs.tolist() == pytest.approx([-math.log(total), 1 - math.log(total)])
    p = math.e / total
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert scores.entropy.tolist() == pytest.approx([entropy, entropy])


def test_a_large_head_goes_through_in_chunks_with_the_same_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 11, bias=False)
    hidden, ids = torch.randn(7, 4, requires_grad=True), torch.randint(0, 9, (7,))

    def run() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = token_scores(hidden, head, ids, temperature=0.7, banned_ids=(9, 10))
        weights = torch.arange(7.0)
        gradients = torch.autograd.grad((scores.logprobs * weights).sum(), [hidden, head.weight])
        return scores.logprobs.detach(), *gradients

    whole = run()
    monkeypatch.setattr(learners.loss, "HEAD_CHUNK_ELEMENTS", 2 * 11)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


def test_an_on_policy_token_has_ratio_one_and_gradient_minus_its_advantage() -> None:
    logprobs = logs(0.5, 0.25).requires_grad_()
    loss, trace = policy_loss(
        logprobs,
        torch.zeros(2),
        targets(logs(0.5, 0.25), [1.0, -2.0]),
        clip_low=0.2,
        clip_high=0.28,
        tis_cap=2.0,
        normaliser=2.0,
    )
    loss.backward()
    assert loss.item() == pytest.approx(-(1.0 - 2.0) / 2)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 1.0])
    assert not trace.clipped.any()


def test_gains_are_clipped_at_the_higher_bound_and_losses_at_the_lower() -> None:
    # ratios 1.5, 1.5, 0.5, 0.5 with advantages +, -, +, -
    known = targets(logs(0.4, 0.4, 0.4, 0.4), [1.0, -1.0, 1.0, -1.0])
    value, trace = loss_of(logs(0.6, 0.6, 0.2, 0.2), known)
    assert value == pytest.approx(-(1.28 - 1.5 + 0.5 - 0.8))
    assert trace.clipped.tolist() == [True, False, False, True]


def test_a_clipped_token_has_no_gradient() -> None:
    logprobs = logs(0.6).requires_grad_()
    loss, _ = policy_loss(
        logprobs,
        torch.zeros(1),
        targets(logs(0.4), [1.0]),
        clip_low=0.2,
        clip_high=0.28,
        tis_cap=None,
        normaliser=1.0,
    )
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == 0


def test_an_off_policy_token_is_weighted_instead_of_clipped_on_the_first_step() -> None:
    # learner 0.6 against rollout 0.4: weight 1.5, ratio to itself 1
    value, trace = loss_of(logs(0.6), targets(logs(0.4), [1.0], off_policy=True))
    assert value == pytest.approx(-1.5)
    assert not trace.clipped.any()
    assert not trace.capped.any()


def test_the_weight_is_truncated_at_the_cap() -> None:
    value, trace = loss_of(logs(0.8), targets(logs(0.2), [1.0], off_policy=True))
    assert value == pytest.approx(-2.0)
    assert trace.capped.all()


def test_a_later_step_clips_against_the_anchor() -> None:
    # weight 0.6 / 0.4 = 1.5; ratio 0.9 / 0.6 = 1.5, clipped to 1.28
    known = targets(logs(0.4), [1.0], off_policy=True, anchor=logs(0.6))
    value, trace = loss_of(logs(0.9), known)
    assert value == pytest.approx(-1.5 * 1.28)
    assert trace.clipped.all()


def test_without_a_cap_off_policy_tokens_are_clipped_against_the_rollout() -> None:
    known = targets(logs(0.4), [1.0], off_policy=True)
    assert loss_of(logs(0.6), known, tis_cap=None)[0] == pytest.approx(-1.28)


def test_micro_batches_add_up_to_the_whole() -> None:
    rollout, now, advantages = logs(0.5, 0.4, 0.3), logs(0.6, 0.35, 0.3), [1.0, -1.0, 0.5]
    whole, _ = loss_of(now, targets(rollout, advantages), total=3)
    parts = [
        loss_of(now[part], targets(rollout[part], advantages[part]), total=3)[0]
        for part in (slice(0, 1), slice(1, 3))
    ]
    assert sum(parts) == pytest.approx(whole)


def test_metrics_of_a_step() -> None:
    def trace(ratio: float, *, image: bool, clipped: bool) -> TokenTrace:
        return TokenTrace(
            log_ratio_rollout=logs(ratio),
            clipped=torch.tensor([clipped]),
            capped=torch.tensor([False]),
            off_policy=torch.tensor([image]),
            after_image=torch.tensor([image]),
            entropy=torch.tensor([1.5]),
        )

    metrics = summarise(
        [trace(1.0, image=False, clipped=False), trace(3.0, image=True, clipped=True)]
    )
    assert metrics == {
        "kl_rollout": pytest.approx((0 + 3 - 1 - math.log(3)) / 2),
        "ess": pytest.approx(16 / (2 * 10)),
        "clip_fraction": 0.5,
        "tis_capped_fraction": 0.0,
        "off_policy_fraction": 0.5,
        "entropy": 1.5,
        "logprob_diff/text_mean": 0.0,
        "logprob_diff/text_max": 0.0,
        "logprob_diff/after_image_mean": pytest.approx(math.log(3)),
        "logprob_diff/after_image_max": pytest.approx(math.log(3)),
    }


def test_a_step_without_images_has_no_image_metrics() -> None:
    _, trace = loss_of(logs(0.5), targets(logs(0.5), [1.0]))
    assert not [name for name in summarise([trace]) if "after_image" in name]
