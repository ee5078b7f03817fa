"""The clipped GRPO objective on log-probs. Pure torch: no model, no engine.

In: hidden states of the scored positions and the head (`token_scores`), or their log-probs with
what the rollout recorded (`policy_loss`). Out: a loss to call backward on, and a `TokenTrace` from
which `summarise` makes the step's metrics. There is no KL term (arXiv 2603.28767 trains without).

For token t with rollout log-prob l_t, learner log-prob p_t and advantage A_t:

    on-policy   (t was sampled by the learner's version)   a_t = l_t                       w_t = 1
    off-policy  (t was sampled by an older version)        a_t = p_t before this update
                                                           w_t = min(exp(a_t - l_t), C)

    ratio_t = exp(p_t - a_t)
    J_t = w_t * min(ratio_t A_t, clip(ratio_t, 1 - clip_low, 1 + clip_high) A_t)
    loss = - sum_t J_t / normaliser

The clipped surrogate with two bounds is DAPO's (arXiv 2503.14476, section 3.1, "clip-higher"). The
split into a behaviour policy (l), an anchor (a) and the policy being trained (p) is the decoupled
objective of arXiv 2110.00641; its weight w is truncated at C (`tis_cap`), which bounds the variance
at the price of some bias. With `tis_cap` None nothing is corrected: a_t = l_t and w_t = 1.
The rollout also cuts its distribution to top-p. That cut is in neither log-prob, so no ratio knows
of it: the gradient is that of the untruncated policy on tokens which the cut made likelier.
"""

from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

HEAD_CHUNK_ELEMENTS = 2**25
"""Most logits held at once (128 MiB in float32); more positions go through in chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """What the learner's policy says of N sampled tokens; both [N], float32."""

    logprobs: torch.Tensor
    """log pi at the sampling temperature over the vocabulary less the banned ids."""
    entropy: torch.Tensor
    """Of the same distribution, in nats; carries no gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTargets:
    """What the rollout recorded of the same N tokens; all [N]."""

    rollout_logprobs: torch.Tensor
    anchor_logprobs: torch.Tensor | None
    """The learner's own, before this update's first step; None: this is the first step."""
    advantages: torch.Tensor
    off_policy: torch.Tensor
    """bool: sampled by an older version than the learner's at the start of the update."""
    after_image: torch.Tensor
    """bool: an image stands before the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTrace:
    """Detached per-token values of one micro-batch, for metrics; all [N]."""

    log_ratio_rollout: torch.Tensor
    """Learner's log-prob less the rollout's."""
    clipped: torch.Tensor
    capped: torch.Tensor
    off_policy: torch.Tensor
    after_image: torch.Tensor
    entropy: torch.Tensor


def token_scores(
    hidden: torch.Tensor,
    head: torch.nn.Linear,
    targets: torch.Tensor,
    *,
    temperature: float,
    banned_ids: tuple[int, ...],
) -> TokenScores:
    """hidden [N, H], head H -> V, targets [N] -> log-probs and entropies [N].

    Logits are taken at these positions only. When N x V is large they are made chunk by chunk and
    made again in the backward pass, so that [N, V] never exists.
    """
    banned = torch.tensor(banned_ids, dtype=torch.long, device=hidden.device)
    rows = max(1, HEAD_CHUNK_ELEMENTS // head.out_features)
    if hidden.shape[0] <= rows:
        logprobs, entropy = _score_chunk(hidden, head, targets, temperature, banned)
        return TokenScores(logprobs=logprobs, entropy=entropy)
    chunks = [
        checkpoint(_score_chunk, h, head, t, temperature, banned, use_reentrant=False)
        for h, t in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    ]
    return TokenScores(
        logprobs=torch.cat([logprobs for logprobs, _ in chunks]),
        entropy=torch.cat([entropy for _, entropy in chunks]),
    )


def policy_loss(
    logprobs: torch.Tensor,
    entropy: torch.Tensor,
    targets: TokenTargets,
    *,
    clip_low: float,
    clip_high: float,
    tis_cap: float | None,
    normaliser: float,
) -> tuple[torch.Tensor, TokenTrace]:
    """The formula at the top. `normaliser` is counted over the whole optimizer step: its sampled
    tokens (token_mean) or its sequences (seq_mean_token_sum), so micro-batches simply add up.
    """
    rollout = targets.rollout_logprobs
    now = logprobs.detach()
    anchor, weight = rollout, torch.ones_like(rollout)
    if tis_cap is not None:
        before = now if targets.anchor_logprobs is None else targets.anchor_logprobs
        anchor = torch.where(targets.off_policy, before, rollout)
        weight = (anchor - rollout).exp().clamp(max=tis_cap)
    ratio = (logprobs - anchor).exp()
    plain = ratio * targets.advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * targets.advantages
    loss = -(weight * torch.minimum(plain, bounded)).sum() / normaliser
    trace = TokenTrace(
        log_ratio_rollout=now - rollout,
        clipped=bounded.detach() < plain.detach(),
        capped=targets.off_policy & (anchor - rollout > _log_or_inf(tis_cap)),
        off_policy=targets.off_policy,
        after_image=targets.after_image,
        entropy=entropy.detach(),
    )
    return loss, trace


def summarise(traces: list[TokenTrace]) -> dict[str, float]:
    """Metrics over all tokens of the micro-batches, by plain name ("entropy").

    logprob_diff  |learner - rollout|, apart for tokens before and after an image
    kl_rollout    the k3 estimate of KL(rollout || learner): mean of r - 1 - log r, with
                  r = learner / rollout (http://joschu.net/blog/kl-approx.html)
    ess           effective sample size of the weights r as a share of the tokens:
                  (sum r)^2 / (N sum r^2)
    """
    log_ratio = torch.cat([trace.log_ratio_rollout for trace in traces]).double()
    after_image = torch.cat([trace.after_image for trace in traces])
    off_policy = torch.cat([trace.off_policy for trace in traces])
    ratio = log_ratio.exp()
    metrics = {
        "kl_rollout": ratio.sub(1).sub(log_ratio).mean(),
        "ess": ratio.sum() ** 2 / (len(ratio) * ratio.square().sum()),
        "clip_fraction": torch.cat([trace.clipped for trace in traces]).double().mean(),
        "tis_capped_fraction": torch.cat([trace.capped for trace in traces]).double().mean(),
        "off_policy_fraction": off_policy.double().mean(),
        "entropy": torch.cat([trace.entropy for trace in traces]).double().mean(),
    }
    difference = log_ratio.abs()
    for name, mask in (("text", ~after_image), ("after_image", after_image)):
        if mask.any():
            metrics[f"logprob_diff/{name}_mean"] = difference[mask].mean()
            metrics[f"logprob_diff/{name}_max"] = difference[mask].max()
    return {name: value.item() for name, value in metrics.items()}


def _score_chunk(
    hidden: torch.Tensor,
    head: torch.nn.Linear,
    targets: torch.Tensor,
    temperature: float,
    banned: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden).float() / temperature
    logits = logits.index_fill(1, banned, float("-inf"))
    all_logprobs = logits.log_softmax(dim=-1)
    with torch.no_grad():
        entropy = torch.special.entr(all_logprobs.exp()).sum(dim=-1)
    return all_logprobs.gather(1, targets[:, None]).squeeze(1), entropy


def _log_or_inf(cap: float | None) -> float:
    return float("inf") if cap is None else torch.tensor(cap).log().item()
