"""Which sequences are computed together: best fit under a token budget, no padding. Pure.

In: `TrainingSample`s. Out: packs of them, for `learners/batch.py` to lay end to end. With sharing,
the first prompt of a group stands once in a pack, before the members that continue it, and counts
once.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile

from core.records import TrainingSample


def plan_packs(
    samples: Sequence[TrainingSample], *, max_tokens: int, share_prefix: bool
) -> list[list[TrainingSample]]:
    """Best fit, longest first: each sample goes where it leaves the least room.

    Groups whose prompt is shared are planned member after member, so that they meet in a pack. A
    sample longer than the budget goes alone. Samples of different temperatures (of groups that a
    run took along from a checkpoint) never meet: a pack is scored at one.
    """
    shared = shared_prompts(samples) if share_prefix else {}
    longest: dict[int, int] = defaultdict(int)
    for sample in samples:
        key = sample.rollout_id.ordinal
        longest[key] = max(longest[key], len(sample.token_ids))

    def rank(sample: TrainingSample) -> tuple[int, int, int]:
        own, ordinal = len(sample.token_ids), sample.rollout_id.ordinal
        return (-longest[ordinal] if ordinal in shared else -own, ordinal, -own)

    packs: list[list[TrainingSample]] = []
    sizes: list[int] = []
    for sample in sorted(samples, key=lambda s: (rank(s), s.rollout_id)):
        costs = [_cost(sample, pack, shared) for pack in packs]
        fitting = [
            n
            for n, (pack, cost) in enumerate(zip(packs, costs, strict=True))
            if sizes[n] + cost <= max_tokens and _scored_alike(sample, pack[0])
        ]
        if fitting:
            # A cheaper place first, where the prompt stands already; then the fullest.
            best = min(fitting, key=lambda n: (costs[n], -sizes[n]))
            packs[best].append(sample)
            sizes[best] += costs[best]
        else:
            packs.append([sample])
            sizes.append(len(sample.token_ids))
    return packs


def shared_prompts(samples: Sequence[TrainingSample]) -> dict[int, int]:
    """By ordinal, the tokens that all members of a group have in common before any was sampled.

    Images never stand in it: the prompt of a task is text, and tools show images only later.
    """
    groups: dict[int, list[TrainingSample]] = defaultdict(list)
    for sample in samples:
        groups[sample.rollout_id.ordinal].append(sample)
    lengths = {
        ordinal: _common_prompt(members) for ordinal, members in groups.items() if len(members) > 1
    }
    return {ordinal: length for ordinal, length in lengths.items() if length}


def _common_prompt(members: Sequence[TrainingSample]) -> int:
    prompts = [member.token_ids[: member.loss_mask.index(1)] for member in members]
    columns = zip(*prompts, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _scored_alike(one: TrainingSample, other: TrainingSample) -> bool:
    ours, theirs = one.sampling, other.sampling
    return (ours.temperature, ours.banned_ids) == (theirs.temperature, theirs.banned_ids)


def _cost(sample: TrainingSample, pack: Sequence[TrainingSample], shared: Mapping[int, int]) -> int:
    """Tokens that the sample adds to the pack."""
    ordinal = sample.rollout_id.ordinal
    stands = any(other.rollout_id.ordinal == ordinal for other in pack)
    return len(sample.token_ids) - (shared.get(ordinal, 0) if stands else 0)
