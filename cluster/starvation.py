"""A run whose groups hold no gradient stops and says why, instead of going on for ever."""

from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.frontier import Ending
from core.errors import GensearcherError
from core.sections.run import TrainConfig


class EmptyBatchesError(GensearcherError):
    """Too many groups in a row without any gradient."""


def refuse_to_starve(
    endings: Sequence[Ending], failures: Mapping[str, int], *, in_a_row: int, config: TrainConfig
) -> None:
    """`endings`: of the groups that ended last, of which `in_a_row` held no gradient."""
    if in_a_row < config.max_empty_batches * config.groups_per_step:
        return
    kinds = Counter(endings[-in_a_row:])
    raise EmptyBatchesError(
        f"{in_a_row} groups in a row held no gradient "
        f"({kinds[Ending.FILTERED]} with equal or masked scores, {kinds[Ending.FAILED]} failed; "
        f"failures by stage: {dict(failures) or 'none'}); raise "
        "train.group_size or rollout.temperature, or give easier tasks"
    )
