"""Finished groups that wait for their batch, as a file of a checkpoint: one JSON line each.

Nothing of a group is left out, so that the learner sees after a resume what it would have seen
before: token ids, log-probabilities to the last bit, images by digest.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from cluster.frontier import FrontierState
from cluster.members import oldest_version
from core.files import write_atomic
from core.protocols import Toolbox
from core.records import Group, ImageRef, to_jsonable
from core.sections.run import TrainConfig

_GROUP = TypeAdapter(Group)


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    lines = (json.dumps(to_jsonable(group)) + "\n" for group in groups)
    write_atomic(path, "".join(lines).encode())


def read_groups(path: Path) -> tuple[Group, ...]:
    with path.open(encoding="utf-8") as file:
        return tuple(_GROUP.validate_json(line) for line in file)


async def usable(
    state: FrontierState, *, config: TrainConfig, toolbox: Toolbox
) -> tuple[Group, ...]:
    """Of the finished groups those that can be consumed: others have to be played again, because
    they are too old, or an image that they were shown is gone. The images of these are pinned."""
    fresh = fresh_enough(state, config=config)
    return tuple([g for g in fresh if await toolbox.pin(g.task.ordinal, images_of(g))])


def fresh_enough(state: FrontierState, *, config: TrainConfig) -> tuple[Group, ...]:
    """Of the finished groups those that can be consumed within the bound: a resume may have made
    that smaller. A group's rank says at which version it is consumed at the latest."""
    kept = []
    for group in state.finished:
        rank = state.pending.index(group.task.ordinal)
        consumed_at = state.step + rank // config.groups_per_step
        versions = (oldest_version(m.trajectory) for m in group.scored if m.trajectory)
        oldest = min((version for version in versions if version is not None), default=consumed_at)
        if consumed_at - oldest <= config.max_staleness:
            kept.append(group)
    return tuple(kept)


def images_of(group: Group) -> tuple[ImageRef, ...]:
    """What its policy saw, and the learner will look at again."""
    turns = (turn for m in group.scored if m.trajectory for turn in m.trajectory.turns)
    return tuple({seen.ref: None for turn in turns for seen in turn.images})
