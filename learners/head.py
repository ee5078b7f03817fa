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
BLOCK_ROWS = 8
"""Rows of a chunk whose softmax is taken at a time, so that they stay in the processor's cache."""
BANNED = -1e30
"""A logit whose probability is 0, and which times 0 is still a number."""


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
        chunk = _Chunk(hidden, weight)
        for rows in _chunks(len(hidden), CHUNK_ROWS):
            logits = chunk.logits(hidden[rows], weight, temperature, banned)
            for part in _blocks(logits):
                block = logits[part]
                highest = block.amax(dim=-1, keepdim=True)
                here = slice(rows.start + part.start, rows.start + part.start + len(block))
                own = block.gather(1, targets[here, None]) - highest
                p = block.sub_(highest).exp()
                mass = p.sum(dim=-1)
                log_mass = mass.log()
                total[here] = highest.squeeze(1) + log_mass
                chosen[here] = own.squeeze(1) - log_mass
                # -sum p log p with p = e^x / mass.
                entropy[here] = log_mass - block.mul_(p).sum(dim=-1) / mass
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
        d_weight = _weight_gradient(weight) if ctx.needs_input_grad[1] else None
        chunk = _Chunk(hidden, weight)
        for rows in _chunks(len(hidden), CHUNK_ROWS):
            d_logits = chunk.logits(hidden[rows], weight, ctx.temperature, banned)
            for part in _blocks(d_logits):
                block = d_logits[part]
                here = slice(rows.start + part.start, rows.start + part.start + len(block))
                block.sub_(total[here, None]).exp_().mul_(-upstream[here, None])
            d_logits.scatter_add_(1, targets[rows, None], upstream[rows, None])
            d_logits = d_logits.to(weight.dtype)
            if d_hidden is not None:
                d_hidden[rows] = d_logits @ weight
            if d_weight is None:
                continue
            if weight.dtype == torch.float32:
                d_weight.addmm_(d_logits.T, hidden[rows])
            else:
                d_weight += d_logits.T @ hidden[rows]
        if d_weight is None or d_weight is weight.grad:
            return d_hidden, None, None, None, None
        return d_hidden, d_weight.to(weight.dtype), None, None, None


def _weight_gradient(weight: torch.Tensor) -> torch.Tensor:
    """What the gradient [V, H] is added to: the one of the packs before, where there is one. A new
    one would be held until the backward pass has come to the tied embedding."""
    gathered = weight.grad
    if gathered is not None and gathered.dtype == torch.float32:
        return gathered
    return torch.zeros_like(weight, dtype=torch.float32)


class _Chunk:
    """Memory for the logits of one chunk, used again for the next: fresh memory costs more than
    the arithmetic on it."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor) -> None:
        rows = min(CHUNK_ROWS, len(hidden))
        self._logits = hidden.new_empty(rows, len(weight), dtype=torch.float32)

    def logits(
        self, hidden: torch.Tensor, weight: torch.Tensor, temperature: float, banned: torch.Tensor
    ) -> torch.Tensor:
        logits = self._logits[: len(hidden)]
        if weight.dtype == torch.float32:
            torch.mm(hidden, weight.T, out=logits)
        else:
            logits.copy_(hidden @ weight.T)
        if temperature != 1.0:
            logits.div_(temperature)
        return logits.index_fill_(1, banned, BANNED)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _blocks(logits: torch.Tensor) -> list[slice]:
    """A GPU has no use for small ones: the whole chunk is one."""
    return _chunks(len(logits), BLOCK_ROWS if logits.device.type == "cpu" else len(logits))


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, temperature: float, banned: torch.Tensor
) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight).float() / temperature
    return logits.index_fill(1, banned, float("-inf"))
