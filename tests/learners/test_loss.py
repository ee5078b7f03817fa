import math
from typing import Any

import pytest
import torch

from core.sections.learner import LearnerConfig
from learners.loss import TokenTargets, TokenTrace, policy_loss, summarise


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def targets(
    rollout: torch.Tensor,
    advantages: list[float],
    *,
    off_policy: bool = False,
    anchor: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
    sequences: list[int] | None = None,
) -> TokenTargets:
    flags = torch.full((len(advantages),), off_policy)
    return TokenTargets(
        rollout_logprobs=rollout,
        anchor_logprobs=anchor,
        reference_logprobs=reference,
        advantages=torch.tensor(advantages),
        off_policy=flags,
        after_image=torch.zeros(len(advantages), dtype=torch.bool),
        sequences=torch.tensor(sequences or [0] * len(advantages)),
    )


def loss_of(
    logprobs: torch.Tensor, known: TokenTargets, *, total: float = 1.0, **settings: Any
) -> tuple[float, TokenTrace]:
    loss, trace = policy_loss(
        logprobs,
        torch.zeros(len(logprobs)),
        known,
        settings=LearnerConfig(**settings),
        normaliser=total,
    )
    return loss.item(), trace


def test_an_on_policy_token_has_ratio_one_and_gradient_minus_its_advantage() -> None:
    logprobs = logs(0.5, 0.25).requires_grad_()
    loss, trace = policy_loss(
        logprobs,
        torch.zeros(2),
        targets(logs(0.5, 0.25), [1.0, -2.0]),
        settings=LearnerConfig(),
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
        settings=LearnerConfig(correction="none"),
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


@pytest.mark.parametrize("objective", ["clipped", "gspo", "cispo"])
@pytest.mark.parametrize("correction", ["truncated", "masked"])
def test_the_weight_of_an_off_policy_token_has_no_gradient_of_its_own(
    objective: str, correction: str
) -> None:
    # learner 0.6 against rollout 0.4: 1.5 times the gradient of the log-prob
    logprobs = logs(0.6).requires_grad_()
    known = targets(logs(0.4), [1.0], off_policy=True)
    settings = LearnerConfig.model_validate({"objective": objective, "correction": correction})
    loss, trace = policy_loss(logprobs, torch.zeros(1), known, settings=settings, normaliser=1.0)
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(-1.5)
    assert not trace.log_ratio_rollout.requires_grad


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


def test_without_a_correction_off_policy_tokens_are_clipped_against_the_rollout() -> None:
    known = targets(logs(0.4), [1.0], off_policy=True)
    assert loss_of(logs(0.6), known, correction="none")[0] == pytest.approx(-1.28)


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
            token_masked=torch.tensor([clipped]),
            sequence_masked=torch.tensor([False]),
            kl_reference=None,
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
        "token_masked_fraction": 0.5,
        "sequence_masked_fraction": 0.0,
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


def test_a_masked_correction_drops_the_outlier_and_keeps_the_rest() -> None:
    # weights 0.6 / 0.4 = 1.5 and 0.9 / 0.3 = 3, which is beyond 2
    known = targets(logs(0.4, 0.3), [1.0, 1.0], off_policy=True)
    value, trace = loss_of(logs(0.6, 0.9), known, correction="masked")
    assert value == pytest.approx(-1.5)
    assert trace.token_masked.tolist() == [False, True]


def test_a_sequence_far_from_its_rollout_teaches_nothing() -> None:
    known = targets(logs(0.5, 0.5, 0.5), [1.0] * 3, off_policy=True, sequences=[0, 0, 1])
    settings = {"correction": "none", "sequence_band": (0.9, 1.1)}
    value, trace = loss_of(logs(0.5, 0.5, 0.7), known, **settings)
    assert value == pytest.approx(-2.0)
    assert trace.sequence_masked.tolist() == [False, False, True]


def test_a_sequence_is_judged_by_its_geometric_mean() -> None:
    # weights 2 and 1/2: their geometric mean is 1, their mean 1.25
    known = targets(logs(0.2, 0.4), [1.0] * 2, off_policy=True)
    value, trace = loss_of(logs(0.4, 0.2), known, correction="none", sequence_band=(0.9, 1.1))
    assert value == pytest.approx(-2.0)
    assert not trace.sequence_masked.any()


def test_the_distance_to_a_reference_is_a_price() -> None:
    # k3 with d = log 2: 1/2 - 1 + log 2
    known = targets(logs(0.5), [1.0], reference=logs(0.25))
    value, trace = loss_of(logs(0.5), known, kl_coef=0.1)
    distance = 0.5 - 1 + math.log(2)
    assert value == pytest.approx(-1 + 0.1 * distance)
    assert summarise([trace])["kl_reference"] == pytest.approx(distance)


def test_no_correction_weighs_the_price_of_distance() -> None:
    # weight 0.6 / 0.4 = 1.5 of the objective alone; k2 of log 2
    known = targets(logs(0.4), [1.0], off_policy=True, reference=logs(0.3))
    value, _ = loss_of(logs(0.6), known, kl_coef=0.1, kl_estimator="k2")
    assert value == pytest.approx(-1.5 + 0.1 * math.log(2) ** 2 / 2)


def test_the_mean_over_sequences_gives_short_ones_the_same_say() -> None:
    known = targets(logs(0.5, 0.5, 0.5), [1.0, 1.0, 4.0], sequences=[0, 0, 1])
    value, _ = loss_of(logs(0.5, 0.5, 0.5), known, aggregation="sequence_mean", total=2)
    assert value == pytest.approx(-(1 + 4) / 2)


def test_a_gspo_sequence_is_clipped_whole() -> None:
    # sequence 0: ratios 2 and 1, geometric mean sqrt 2 > 1.28; sequence 1: ratio 1.1
    known = targets(logs(0.3, 0.5, 0.5), [1.0, 1.0, 1.0], sequences=[0, 0, 1])
    value, trace = loss_of(logs(0.6, 0.5, 0.55), known, objective="gspo")
    assert value == pytest.approx(-(2 * 1.28 + 1.1))
    assert trace.clipped.tolist() == [True, True, False]


def test_a_gspo_ratio_is_the_geometric_mean_of_those_of_its_tokens() -> None:
    # ratios 1.2 and 0.9: sqrt(1.08), and each token's share of its gradient is half of it
    logprobs = logs(0.6, 0.45).requires_grad_()
    known = targets(logs(0.5, 0.5), [2.0, 2.0])
    settings = LearnerConfig(objective="gspo", aggregation="sequence_mean")
    loss, _ = policy_loss(logprobs, torch.zeros(2), known, settings=settings, normaliser=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-2 * math.sqrt(1.08))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-math.sqrt(1.08)] * 2)


def test_a_cispo_token_beyond_the_bound_keeps_its_gradient() -> None:
    logprobs = logs(0.6, 0.4).requires_grad_()
    loss, trace = policy_loss(
        logprobs,
        torch.zeros(2),
        targets(logs(0.3, 0.5), [1.0, -1.0]),
        settings=LearnerConfig(objective="cispo"),
        normaliser=1.0,
    )
    loss.backward()
    assert loss.item() == pytest.approx(-(1.28 * math.log(0.6) - 0.8 * math.log(0.4)), rel=1e-5)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.28, 0.8])
    assert trace.clipped.tolist() == [True, False]
