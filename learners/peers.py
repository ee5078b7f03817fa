"""Several learners that make one optimizer step together: each takes some packs of the batch.

Every learner plans the whole batch and takes the share of its rank, so that nothing has to be
sent; DeepSpeed adds the gradients up. A process without a process group is a learner alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from core.errors import GensearcherError, LearnerError, boundary
from core.records import TrainingSample

T = TypeVar("T")
Pack = list[TrainingSample]


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def num_learners() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def tokens_per_pack(samples: Sequence[TrainingSample], *, most: int) -> int:
    """The budget of a pack: `most`, or less where a learner would be left without work."""
    total = sum(len(sample.token_ids) for sample in samples)
    return min(most, -(-total // num_learners()))


def share_out(packs: Sequence[Pack], *, num_learners: int) -> list[list[Pack]]:
    """Per learner its packs: the longest first, each to whoever has the fewest tokens so far.

    A learner gets none when there are fewer packs than learners.
    """
    shares: list[list[Pack]] = [[] for _ in range(num_learners)]
    loads = [0] * num_learners
    for pack in sorted(packs, key=_num_tokens, reverse=True):
        lightest = loads.index(min(loads))
        shares[lightest].append(pack)
        loads[lightest] += _num_tokens(pack)
    return shares


def together(work: Callable[[], T]) -> list[T]:
    """What `work` gives on every learner, by rank.

    An error of one learner is raised by all, who would else wait for it in their next exchange.
    """
    if num_learners() == 1:
        return [work()]
    own: T | GensearcherError
    try:
        with boundary(LearnerError, f"learner {rank()}"):
            own = work()
    except GensearcherError as error:
        own = error
    gathered: list[Any] = [None] * num_learners()
    dist.all_gather_object(gathered, own)
    for value in gathered:
        if isinstance(value, GensearcherError):
            raise value
    return gathered


def _num_tokens(pack: Pack) -> int:
    return sum(len(sample.token_ids) for sample in pack)
