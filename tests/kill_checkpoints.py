"""Kill a training process at every step of a checkpoint's writing, resume, and compare.

    python -m tests.kill_checkpoints FOLDER [one_of_each]

The process is small but whole: a model with AdamW in float32, a random generator, the frontier, and
the two layers of checkpoint (learners/checkpoint.py inside cluster/checkpoints.py). Each point is
a process of its own, which ends itself with SIGKILL there. Prints one JSON line: how many points,
and which of them did not resume to the same bits with every task consumed once.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cluster.checkpoints import LEARNER, Checkpoints, read_frontier
from cluster.frontier import Frontier
from core.config import Config
from core.files import watched_writes
from learners.checkpoint import TrainState, load_checkpoint, policy_folder, save_checkpoint
from tests.builders import make_group, make_task
from tests.builders_cluster import save_whole

STEPS, GROUPS, KILLED_AT = 5, 2, 3
WEIGHTS = "model.safetensors"


class Run:
    """`STEPS` steps in `folder`, from the newest whole checkpoint on."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(6, 4)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.consumed: list[int] = []
        self.checkpoints = Checkpoints(folder, keep=2)
        self.checkpoints.clean_up()
        latest = self.checkpoints.latest()
        self.frontier = Frontier(
            groups_per_step=GROUPS,
            max_staleness=1,
            total_steps=STEPS,
            state=None if latest is None else read_frontier(latest),
            teaches=lambda group: group.has_spread,
        )
        if latest is not None:
            self.restore(latest / LEARNER)

    def train(self) -> None:
        while self.frontier.step < STEPS:
            self.frontier.aim(self.frontier.step + 1)
            while (ordinal := self.frontier.admit()) is not None:
                self.frontier.finish(make_group(task=make_task(ordinal)))
            groups = self.frontier.take_batch()
            assert groups is not None
            for ordinal in [group.task.ordinal for group in groups]:
                world = torch.Generator().manual_seed(ordinal)  # replayed: the same every time
                inputs = torch.randn(3, 6, generator=world) + torch.rand(1)
                self.model(inputs).square().mean().backward()
                self.consumed.append(ordinal)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.frontier.complete_step()
            self.save()
            if self.frontier.step == KILLED_AT:
                self.save()  # again, as Ctrl-C right after a checkpoint does

    def save(self) -> None:
        save_whole(
            self.checkpoints,
            state=self.frontier.state,
            config=Config(),
            save_learner=self.save_learner,
        )

    def save_learner(self, folder: str) -> int:
        step = self.frontier.step
        state = TrainState(step=step, version=step, tensors=self.tensors())
        weights = dict(self.model.state_dict())
        save_checkpoint(
            Path(folder), state=state, write_policy=lambda at: save_file(weights, at / WEIGHTS)
        )
        return step

    def tensors(self) -> dict[str, torch.Tensor]:
        tensors = {"rng": torch.get_rng_state(), "consumed": torch.tensor(self.consumed)}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{index}": value for name, value in moments.items()}
        return tensors

    def restore(self, folder: Path) -> None:
        self.model.load_state_dict(load_file(policy_folder(folder) / WEIGHTS))
        tensors = dict(load_checkpoint(folder).tensors)
        torch.set_rng_state(tensors.pop("rng"))
        self.consumed = tensors.pop("consumed").tolist()
        state = self.optimizer.state_dict()
        state["state"] = {0: {}, 1: {}}
        for key, value in tensors.items():
            name, index = key.split("/")
            state["state"][int(index)][name] = value
        self.optimizer.load_state_dict(state)

    def outcome(self) -> str:
        """Every bit of the end, and which tasks were consumed, in order."""
        everything = {**self.model.state_dict(), **self.tensors()}
        digest = hashlib.sha256()
        for name, tensor in sorted(everything.items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return f"{digest.hexdigest()} {self.consumed}"


def in_child(work: Callable[[], None]) -> int:
    """The wait status of a process that does this."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def write_points(folder: Path) -> list[str]:
    """What the writing of the checkpoints of step `KILLED_AT` goes through."""
    seen: list[tuple[int, str]] = []
    run = Run(folder)
    with watched_writes(lambda point: seen.append((run.frontier.step, point))):
        run.train()
    return [point for step, point in seen if step == KILLED_AT]


def killed_and_resumed(folder: Path, point_number: int) -> str | None:
    """The outcome after a kill at that point; None when nothing was killed or resumed."""

    def train_and_die() -> None:
        run = Run(folder)
        seen = 0

        def watch(point: str) -> None:
            nonlocal seen
            if run.frontier.step == KILLED_AT:
                if seen == point_number:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        with watched_writes(watch):
            run.train()

    def resume() -> None:
        run = Run(folder)
        run.train()
        (folder / "outcome").write_text(run.outcome())

    if in_child(train_and_die) != signal.SIGKILL or in_child(resume) != 0:
        return None
    return (folder / "outcome").read_text()


def main(folder: Path, *, one_of_each: bool) -> dict[str, object]:
    torch.set_num_threads(1)
    points = write_points(folder / "points")
    whole = Run(folder / "whole")
    whole.train()
    assert whole.consumed == list(range(STEPS * GROUPS))
    chosen = list(range(len(points)))
    if one_of_each:
        kinds = [point.rsplit(" ", 1)[0] for point in points]
        chosen = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    bad = [
        points[number]
        for number in chosen
        if killed_and_resumed(folder / f"killed_{number}", number) != whole.outcome()
    ]
    return {"points": len(points), "killed": [points[number] for number in chosen], "bad": bad}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), one_of_each=sys.argv[2:] == ["one_of_each"])))
