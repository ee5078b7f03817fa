"""Finished groups that wait for their batch, as a file of a checkpoint: one JSON line each.

Nothing of a group is left out, so that the learner sees after a resume what it would have seen
before: token ids, log-probabilities to the last bit, images by digest.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from core.files import write_atomic
from core.records import Group, ImageRef, to_jsonable

_GROUP = TypeAdapter(Group)


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    lines = (json.dumps(to_jsonable(group)) + "\n" for group in groups)
    write_atomic(path, "".join(lines).encode())


def read_groups(path: Path) -> tuple[Group, ...]:
    with path.open(encoding="utf-8") as file:
        return tuple(_GROUP.validate_json(line) for line in file)


def images_of(group: Group) -> tuple[ImageRef, ...]:
    """What its policy saw, and the learner will look at again."""
    turns = (turn for m in group.scored if m.trajectory for turn in m.trajectory.turns)
    return tuple({seen.ref: None for turn in turns for seen in turn.images})
