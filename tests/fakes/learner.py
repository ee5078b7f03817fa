"""A learner that counts its updates and publishes its version as the weights."""

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import LearnerError
from core.records import Group, LearnerReport, TensorSpec, WeightChunk, WeightUpdate
from tests.fakes.failures import FailureScript


class FakeLearner:
    """Implements core.protocols.Learner; `fail_times` is keyed by the version it would make.

    The payload of version v is one int64 tensor "version" that holds v.
    Events: ("update", version, ordinals), ("publish", version), ("save", version), ("load",
    version).
    """

    def __init__(self, *, fail_times: Mapping[Hashable, int] | None = None) -> None:
        self.version = 0
        self._failures = FailureScript(fail_times)
        self.events: list[tuple[Any, ...]] = []
        self.begun: set[int] = set()
        """Ordinals that `begin` was given for the next update."""

    def begin(self, groups: Sequence[Group]) -> None:
        ordinals = [group.task.ordinal for group in groups]
        assert self.begun.isdisjoint(ordinals), "a group was begun twice"
        self.begun.update(ordinals)

    def update(self, groups: Sequence[Group]) -> LearnerReport:
        assert groups, "an update without groups"
        assert self.begun <= {group.task.ordinal for group in groups}, "a stranger was begun"
        self.begun.clear()
        for group in groups:
            assert len(group.scored) >= 2, f"{group.task.task_id} has no group to compare"
        if self._failures.should_fail(self.version + 1):
            raise LearnerError(f"scripted fault of update {self.version + 1}")
        self.version += 1
        ordinals = tuple(group.task.ordinal for group in groups)
        self.events.append(("update", self.version, ordinals))
        trajectories = [m.trajectory for g in groups for m in g.scored if m.trajectory]
        return LearnerReport(
            version=self.version,
            metrics={"learner/loss": 0.0},
            seconds=0.01,
            num_samples=len(trajectories),
            num_tokens=sum(t.num_sampled_tokens for t in trajectories),
        )

    def publish(self) -> tuple[WeightUpdate, list[npt.NDArray[np.uint8]]]:
        self.events.append(("publish", self.version))
        payload = np.array([self.version], dtype=np.int64).view(np.uint8)
        digest = hashlib.sha256(payload.tobytes()).hexdigest()
        update = WeightUpdate(
            version=self.version,
            base_version=None,
            manifest=(TensorSpec(name="version", dtype="int64", shape=(1,), offset=0),),
            chunks=(WeightChunk(start=0, stop=8, checksum=digest, wire_checksum=digest),),
        )
        return update, [payload]

    def save(self, folder: str) -> int:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "learner.json").write_text(json.dumps({"version": self.version}))
        self.events.append(("save", self.version))
        return self.version

    def load(self, folder: str) -> None:
        state = json.loads((Path(folder) / "learner.json").read_text())
        self.version = int(state["version"])
        self.events.append(("load", self.version))
