"""Learners that share the work of a batch, each in a process of its own on this machine.

with two_learners(folder) as learners:
    outcomes = learners.update(config, groups, images=[folder, folder], save_to=path)
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from core.config import Config
from core.records import Group, LearnerReport
from envs.chat import ChatFormat
from envs.images import FileImageStore
from learners.grpo_learner import GrpoLearner
from learners.receive import WeightReceiver

NUM_LEARNERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a learner has after an update."""

    report: LearnerReport
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learners:
    processes: tuple[ProcessPoolExecutor, ...]

    def update(
        self, config: Config, groups: Sequence[Group], *, images: Sequence[Path], save_to: Path
    ) -> list[Outcome | Exception]:
        """Of each learner, given the image store of each."""
        asked = [
            process.submit(update_and_save, config, groups, folder, save_to)
            for process, folder in zip(self.processes, images, strict=True)
        ]
        return [future.exception() or future.result() for future in asked]  # type: ignore[misc]


@contextmanager
def two_learners(folder: Path) -> Iterator[Learners]:
    """They meet over a file in `folder`, and take any number of updates, one after another."""
    with ExitStack() as stack:
        processes = [
            ProcessPoolExecutor(
                1,
                mp_context=get_context("spawn"),
                initializer=_join,
                initargs=(folder / "peers", rank),
            )
            for rank in range(NUM_LEARNERS)
        ]
        yield Learners(processes=tuple(map(stack.enter_context, processes)))


def update_and_save(
    config: Config, groups: Sequence[Group], images: Path, save_to: Path
) -> Outcome:
    """What each process does; the only learner there is does the same."""
    learner = GrpoLearner(
        config, chat=ChatFormat.load(config.policy.path), images=FileImageStore(images)
    )
    try:
        report = learner.update(groups)
        learner.save(str(save_to))
        weights = WeightReceiver().receive(*learner.publish())
        return Outcome(report=report, weights={name: w.clone() for name, w in weights})
    finally:
        learner.close()


def _join(meeting_point: Path, rank: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=NUM_LEARNERS
    )
