"""Log-probs of sampled tokens -> a loss and the step's metrics. Pure torch: no model, no engine.

In: what the learner says of N tokens, and what the rollout recorded of them (`TokenTargets`). Out:
a loss to call backward on, and a `TokenTrace` from which `summarise` makes the step's metrics.

For token t with rollout log-prob l_t, learner log-prob p_t and advantage A_t:

    on-policy   (t was sampled by the learner's version)   a_t = l_t                       w_t = 1
    off-policy  (t was sampled by an older version)        a_t = p_t before this update
                                                           w_t = corrections(a_t - l_t)

    J_t  = objective(p_t against the anchor a_t, A_t)
    loss = - sum_t c_t (w_t J_t - kl_coef KL_t) / normaliser

Objective, correction, KL and the share c_t / normaliser are those of learners/objectives. With
`correct_on_policy` every token is treated as off-policy, because the rollout's engine computes in
other numerics than the learner. Without any correction a_t = l_t and w_t = 1.
The rollout also cuts its distribution to top-p. That cut is in neither log-prob, so no ratio knows
of it: the gradient is that of the untruncated policy on tokens which the cut made likelier.
"""

from dataclasses import dataclass

import torch

from core.sections.learner import LearnerConfig
from learners.objectives import OBJECTIVES
from learners.objectives.aggregation import token_weights
from learners.objectives.corrections import Weights, correct
from learners.objectives.kl import kl


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTargets:
    """What is known of the same N tokens besides; all [N]."""

    rollout_logprobs: torch.Tensor
    anchor_logprobs: torch.Tensor | None
    """The learner's own, before this update's first step; None: this is the first step."""
    reference_logprobs: torch.Tensor | None
    """The frozen reference's; None: no KL term."""
    advantages: torch.Tensor
    off_policy: torch.Tensor
    """bool: to be corrected."""
    after_image: torch.Tensor
    """bool: an image stands before the token."""
    sequences: torch.Tensor
    """Number of the token's sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTrace:
    """Detached per-token values of one micro-batch, for metrics; all [N]."""

    log_ratio_rollout: torch.Tensor
    """Learner's log-prob less the rollout's."""
    clipped: torch.Tensor
    capped: torch.Tensor
    token_masked: torch.Tensor
    sequence_masked: torch.Tensor
    off_policy: torch.Tensor
    after_image: torch.Tensor
    entropy: torch.Tensor
    kl_reference: torch.Tensor | None


def policy_loss(
    logprobs: torch.Tensor,
    entropy: torch.Tensor,
    targets: TokenTargets,
    *,
    settings: LearnerConfig,
    normaliser: float,
) -> tuple[torch.Tensor, TokenTrace]:
    """The formula at the top. `normaliser` is counted over the whole optimizer step."""
    now, rollout = logprobs.detach(), targets.rollout_logprobs
    anchor = rollout
    if settings.corrects:
        before = now if targets.anchor_logprobs is None else targets.anchor_logprobs
        anchor = torch.where(targets.off_policy, before, rollout)
    correction = _correct(anchor - rollout, targets, settings=settings)
    surrogate = OBJECTIVES[settings.objective](
        logprobs,
        anchor,
        targets.advantages,
        targets.sequences,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
    )
    value, distance = correction.weight * surrogate.value, None
    if targets.reference_logprobs is not None:
        distance = kl(logprobs, targets.reference_logprobs, estimator=settings.kl_estimator)
        value = value - settings.kl_coef * distance
    shares = token_weights(targets.sequences, mode=settings.aggregation)
    trace = TokenTrace(
        log_ratio_rollout=now - rollout,
        clipped=surrogate.clipped,
        capped=correction.capped,
        token_masked=correction.token_masked,
        sequence_masked=correction.sequence_masked,
        off_policy=targets.off_policy,
        after_image=targets.after_image,
        entropy=entropy.detach(),
        kl_reference=None if distance is None else distance.detach(),
    )
    return -(shares * value).sum() / normaliser, trace


def summarise(traces: list[TokenTrace]) -> dict[str, float]:
    """Metrics over all tokens of the micro-batches, by plain name ("entropy").

    logprob_diff  |learner - rollout|, apart for tokens before and after an image
    kl_rollout    the k3 estimate of KL(rollout || learner): mean of r - 1 - log r, with
                  r = learner / rollout (http://joschu.net/blog/kl-approx.html)
    ess           effective sample size of the weights r as a share of the tokens:
                  (sum r)^2 / (N sum r^2)
    """

    def gather(name: str) -> torch.Tensor:
        return torch.cat([getattr(trace, name) for trace in traces])

    log_ratio, after_image = gather("log_ratio_rollout").double(), gather("after_image")
    ratio = log_ratio.exp()
    metrics = {
        "kl_rollout": ratio.sub(1).sub(log_ratio).mean(),
        "ess": ratio.sum() ** 2 / (len(ratio) * ratio.square().sum()),
        "clip_fraction": gather("clipped").double().mean(),
        "tis_capped_fraction": gather("capped").double().mean(),
        "token_masked_fraction": gather("token_masked").double().mean(),
        "sequence_masked_fraction": gather("sequence_masked").double().mean(),
        "off_policy_fraction": gather("off_policy").double().mean(),
        "entropy": gather("entropy").double().mean(),
    }
    if traces[0].kl_reference is not None:
        metrics["kl_reference"] = gather("kl_reference").double().mean()
    difference = log_ratio.abs()
    for name, mask in (("text", ~after_image), ("after_image", after_image)):
        if mask.any():
            metrics[f"logprob_diff/{name}_mean"] = difference[mask].mean()
            metrics[f"logprob_diff/{name}_max"] = difference[mask].max()
    return {name: value.item() for name, value in metrics.items()}


def _correct(
    log_weight: torch.Tensor, targets: TokenTargets, *, settings: LearnerConfig
) -> Weights:
    return correct(
        log_weight,
        targets.sequences,
        kind=settings.correction,
        cap=settings.tis_cap,
        token_band=settings.token_band,
        sequence_band=settings.sequence_band,
    )
