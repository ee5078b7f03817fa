"""Our losses against TRL's own where both define the same: values, gradients, shares, prices.

`GRPOTrainer._compute_loss` runs as it is; only the model's forward pass and the gathering between
processes are stood in for. Needs the extra: pip install ".[peers]" (TRL itself, no GPU).

Left out, because TRL means something else: its sequence masks multiply a sequence's weights where
ours takes their geometric mean, and its KL is k3 alone. Its `epsilon_high` of CISPO is the bound
itself, ours is how far it lies above 1; its Dr.GRPO divides by the longest completion besides.
"""

import importlib
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.sections.learner import LearnerConfig
from learners.loss import TokenTargets, TokenTrace, policy_loss
from learners.objectives.overlong import overlong_penalty

trl = pytest.importorskip("trl", reason="trl is not installed: pip install '.[peers]'")

LENGTHS = (7, 1, 4, 12)
LONGEST = max(LENGTHS)
CLIP = {"clip_low": 0.2, "clip_high": 0.28}
TIGHT = {"clip_low": 0.03, "clip_high": 0.04}
TRL_CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.28}
TRL_TIGHT = {"epsilon_low": 0.03, "epsilon_high": 0.04}


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """[B, T] each, of which `mask` holds; advantages [B]."""

    mask: torch.Tensor
    now: torch.Tensor
    old: torch.Tensor
    rollout: torch.Tensor
    reference: torch.Tensor
    advantages: torch.Tensor


@pytest.fixture
def tokens() -> Tokens:
    """Log-probs that moved by about 0.3: every bound and cap binds for some token."""
    draw = torch.Generator().manual_seed(3)
    shape = (len(LENGTHS), LONGEST)

    def near(values: torch.Tensor) -> torch.Tensor:
        return values + 0.3 * torch.randn(shape, generator=draw)

    old = -0.5 - 2 * torch.rand(shape, generator=draw)
    return Tokens(
        mask=torch.arange(LONGEST)[None] < torch.tensor(LENGTHS)[:, None],
        now=near(old),
        old=old,
        rollout=near(old),
        reference=near(old),
        advantages=torch.tensor([1.3, -0.7, -1.1, 0.4]),
    )


@pytest.mark.parametrize("correction", ["none", "truncated", "masked"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.05])
@pytest.mark.parametrize(
    ("ours", "theirs", "scale"),
    [
        pytest.param(
            {"objective": "clipped", "aggregation": "sequence_mean", **CLIP},
            {"loss_type": "grpo", **TRL_CLIP},
            1.0,
            id="grpo",
        ),
        pytest.param(
            {"objective": "clipped", "aggregation": "token_mean", **CLIP},
            {"loss_type": "dapo", **TRL_CLIP},
            1.0,
            id="dapo",
        ),
        pytest.param(
            {"objective": "clipped", "aggregation": "sequence_mean_token_sum", **CLIP},
            {"loss_type": "dr_grpo", **TRL_CLIP},
            LONGEST,
            id="dr-grpo",
        ),
        pytest.param(
            {"objective": "gspo", "aggregation": "sequence_mean", **TIGHT},
            {"loss_type": "grpo", "importance_sampling_level": "sequence", **TRL_TIGHT},
            1.0,
            id="gspo",
        ),
        pytest.param(
            {"objective": "cispo", "aggregation": "token_mean", "clip_high": 0.28},
            {"loss_type": "cispo", "epsilon_high": 1.28},
            1.0,
            id="cispo",
        ),
    ],
)
def test_loss_and_gradient_are_trls(
    tokens: Tokens,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    scale: float,
    kl_coef: float,
    correction: str,
) -> None:
    settings = LearnerConfig(
        **ours, correction=correction, tis_cap=1.2, token_band=(0.8, 1.25), kl_coef=kl_coef
    )
    value, gradient, _ = our_loss(tokens, settings)

    their_value, their_gradient, _ = trl_loss(
        tokens, theirs, kl_coef=kl_coef, weights=trl_weights(tokens, correction)
    )

    torch.testing.assert_close(value, scale * their_value)
    torch.testing.assert_close(gradient, scale * their_gradient)
    assert gradient.abs().max() > 0.01


def test_the_share_of_clipped_tokens_is_trls(tokens: Tokens) -> None:
    settings = LearnerConfig(correction="truncated", tis_cap=100.0, **CLIP)
    _, _, trace = our_loss(tokens, settings)
    _, _, metrics = trl_loss(tokens, {"loss_type": "dapo", **TRL_CLIP}, kl_coef=0.0, weights=None)

    share = trace.clipped.double().mean().item()
    assert 0.1 < share < 0.9
    assert metrics["clip_ratio/region_mean"] == [pytest.approx(share)]


def test_the_price_of_overlong_answers_is_trls() -> None:
    rewards = importlib.import_module("trl.rewards")
    price = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    lengths = range(130)
    ours = [overlong_penalty(length, limit=100, buffer=20) for length in lengths]
    assert ours == pytest.approx(price([[0] * length for length in lengths]))


def our_loss(
    tokens: Tokens, settings: LearnerConfig
) -> tuple[torch.Tensor, torch.Tensor, TokenTrace]:
    """The loss, its gradient [B, T], and the trace. `old` is the anchor: all is off-policy."""
    now = tokens.now.clone().requires_grad_()
    sequences = torch.arange(len(LENGTHS))[:, None].expand_as(tokens.mask)[tokens.mask]
    anchor = tokens.old if settings.corrects else tokens.rollout
    known = TokenTargets(
        rollout_logprobs=(tokens.rollout if settings.corrects else tokens.old)[tokens.mask],
        anchor_logprobs=anchor[tokens.mask],
        reference_logprobs=tokens.reference[tokens.mask] if settings.kl_coef else None,
        advantages=tokens.advantages[sequences],
        off_policy=torch.ones(sum(LENGTHS), dtype=torch.bool),
        after_image=torch.zeros(sum(LENGTHS), dtype=torch.bool),
        sequences=sequences,
    )
    total = sum(LENGTHS) if settings.aggregation == "token_mean" else len(LENGTHS)
    value, trace = policy_loss(
        now[tokens.mask],
        torch.zeros(sum(LENGTHS)),
        known,
        settings=settings,
        normaliser=float(total),
    )
    (gradient,) = torch.autograd.grad(value, now)
    return value.detach(), gradient, trace


def trl_weights(tokens: Tokens, correction: str) -> torch.Tensor | None:
    """As `_generate_and_score_completions` makes them of token_truncate and token_mask."""
    ratio = (tokens.old - tokens.rollout).exp()
    if correction == "truncated":
        return ratio.clamp(max=1.2)
    if correction == "masked":
        return ratio.masked_fill((ratio < 0.8) | (ratio > 1.25), 0.0)
    return None


def trl_loss(
    tokens: Tokens, options: dict[str, Any], *, kl_coef: float, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, dict[str, list[float]]]:
    """The loss, its gradient [B, T], and the metrics of one whole batch in one process."""
    now = tokens.now.clone().requires_grad_()
    metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list)}

    def forward(*unused: Any, **also_unused: Any) -> tuple[torch.Tensor, torch.Tensor, None]:
        return now, torch.zeros_like(now), None

    alone = SimpleNamespace(
        num_processes=1,
        gather=lambda value: value,
        reduce=lambda value, reduction: value,
    )
    settings = {"importance_sampling_level": "token", "epsilon_low": 0.2} | options
    trainer = SimpleNamespace(
        **settings,
        _get_per_token_logps_and_entropies=forward,
        _metrics=metrics,
        _entropy_bonus_enabled=False,
        accelerator=alone,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        aux_loss_enabled=False,
        beta=kl_coef,
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=weights is not None,
        vllm_importance_sampling_correction=weights is not None,
    )
    ids = torch.zeros_like(tokens.mask, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": tokens.mask.long(),
        "advantages": tokens.advantages,
        "old_per_token_logps": tokens.old,
        "ref_per_token_logps": tokens.reference,
        "importance_sampling_ratio": weights,
        "num_items_in_batch": tokens.mask.sum(),
    }
    value = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    (gradient,) = torch.autograd.grad(value, now)
    return value.detach(), gradient, metrics["train"]
