"""Hidden states of sampled positions -> their log-probs and entropies; the logits never whole.

    logits = head(hidden) / temperature, banned ids at -inf

In: hidden [N, H] and the head's weight [V, H]. Out: `TokenScores`, exact to rounding. A small
vocabulary takes the plain way, which keeps [N, V] for the backward pass and is the faster one. A
large one goes through in chunks of rows: the forward pass keeps one logsumexp a row, and the
backward pass makes the logits of a chunk again (one matrix product more, of three).
"""

from dataclasses import dataclass
from typing import Any

import torch

PLAIN_LOGITS = 2**25
"""Most logits that the plain way may hold (128 MiB in float32)."""
CHUNK_ROWS = 512
"""Rows at a time; fewer make the sum over chunks of the weight's gradient the larger part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """What the learner's policy says of N sampled tokens; both [N], float32."""

    logprobs: torch.Tensor
    """log pi at the sampling temperature over the vocabulary less the banned ids."""
    entropy: torch.Tensor
    """Of the same distribution, in nats; carries no gradient."""


def token_scores(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float,
    banned_ids: tuple[int, ...],
) -> TokenScores:
    """hidden [N, H], weight [V, H], targets [N] -> log-probs and entropies [N]."""
    banned = torch.tensor(banned_ids, dtype=torch.long, device=hidden.device)
    if hidden.shape[0] * weight.shape[0] <= PLAIN_LOGITS:
        logits = _logits(hidden, weight, temperature, banned)
        logprobs = logits.log_softmax(dim=-1)
        with torch.no_grad():
            entropy = torch.special.entr(logprobs.exp()).sum(dim=-1)
        chosen = logprobs.gather(1, targets[:, None]).squeeze(1)
    else:
        chosen, entropy = _FusedHead.apply(hidden, weight, targets, temperature, banned)
    return TokenScores(logprobs=chosen, entropy=entropy)


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        banned: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        total, entropy = torch.empty_like(chosen), torch.empty_like(chosen)
        for rows in _chunks(len(hidden)):
            logits = _logits(hidden[rows], weight, temperature, banned)
            total[rows] = logits.logsumexp(dim=-1)
            chosen[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - total[rows]
            logprobs = logits.sub_(total[rows, None])
            p = logprobs.exp()
            # A banned log-prob is -inf with p = 0, and 0 x -inf is no number.
            entropy[rows] = -p.mul_(logprobs.index_fill_(1, banned, 0.0)).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, targets, banned, total)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """d log p_y / d logits = onehot(y) - p, through logits = hidden weight^T / temperature."""
        hidden, weight, targets, banned, total = ctx.saved_tensors
        upstream = gradients[0] / ctx.temperature
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = (
            torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        )
        for rows in _chunks(len(hidden)):
            up = upstream[rows, None]
            d_logits = _logits(hidden[rows], weight, ctx.temperature, banned)
            d_logits.sub_(total[rows, None]).exp_().mul_(-up)
            d_logits.scatter_add_(1, targets[rows, None], up)
            d_logits = d_logits.to(weight.dtype)
            if d_hidden is not None:
                d_hidden[rows] = d_logits @ weight
            if d_weight is None:
                continue
            if weight.dtype == torch.float32:
                d_weight.addmm_(d_logits.T, hidden[rows])
            else:
                d_weight += d_logits.T @ hidden[rows]
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + CHUNK_ROWS) for start in range(0, count, CHUNK_ROWS)]


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, temperature: float, banned: torch.Tensor
) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight).float() / temperature
    return logits.index_fill(1, banned, float("-inf"))
