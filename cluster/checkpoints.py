"""Checkpoints of a run: runs/<name>/checkpoints/step_000020/, whole or not at all.

    learner/        the policy as a Hugging Face folder, and the learner's resumable state
    frontier.json   step, next ordinal, ordinals under way (those that still ran are issued again)
    groups.jsonl    the finished groups among them
    config.yaml     the resolved config
    manifest.json   every file with its size; written last

best.json beside them names the step with the best held-out reward.

A checkpoint is written into a hidden folder and renamed when it is complete; meanwhile training
goes on. `latest` skips what is torn: a folder without a manifest, or with a file that is missing or
of another size.
"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from cluster.frontier import FrontierState
from cluster.kept_groups import read_groups, write_groups
from core.config import Config, save_config
from core.errors import ConfigError, LearnerError
from core.files import (
    clean_up,
    draft_beside,
    file_sizes,
    put_folder_in_place,
    write_json_atomic,
)

logger = logging.getLogger(__name__)

LEARNER = "learner"
FRONTIER = "frontier.json"
GROUPS = "groups.jsonl"
MANIFEST = "manifest.json"
BEST = "best.json"


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the best (`note_reward`)."""

    def __init__(
        self, folder: Path, *, keep: int, on_whole: Callable[[Path], None] = lambda path: None
    ) -> None:
        """`on_whole` is told of each that is put in its place."""
        self._folder = folder
        self._keep = keep
        self._on_whole = on_whole
        self._begun: tuple[Path, Path] | None = None
        """A draft whose learner's part is being written, and its place."""
        self._held: int | None = None
        """A step whose held-out reward is not known yet."""

    def begin(
        self, *, state: FrontierState, config: Config, save_learner: Callable[[str], int]
    ) -> None:
        """Begin one for `state.step`; the learner may go on writing its part. Raises LearnerError,
        and leaves those that are there, when learner and frontier are not of the same step."""
        self._drop_draft()
        path = self._path(state.step)
        draft = begin_checkpoint(path, state=state, config=config, save_learner=save_learner)
        self._begun = (draft, path)

    def finish(self) -> Path | None:
        """Put what was begun in its place and drop the oldest; None when nothing was begun, or
        the learner has not written its part yet."""
        if self._begun is None or not (self._begun[0] / LEARNER).is_dir():
            return None
        (draft, path), self._begun = self._begun, None
        finish_checkpoint(draft, path)
        self._on_whole(path)
        wanted = [self._path(step) for step in (self.best_step, self._held) if step is not None]
        for old in self._older_than_kept():
            if old not in wanted:
                logger.info("dropping checkpoint %s", old)
                shutil.rmtree(old)
        return path

    def _older_than_kept(self) -> list[Path]:
        """A torn one counts as none of those that are kept."""
        folders = self._all()
        whole = [path for path in folders if is_whole(path)]
        if len(whole) < self._keep:
            return []
        return folders[folders.index(whole[self._keep - 1]) + 1 :]

    def last_whole(self) -> Path | None:
        """From which to go on when the learner is lost: what was begun counts too, if the learner
        had written its part, and is never put in its place afterwards."""
        self.finish()
        self._drop_draft()
        return self.latest()

    def _drop_draft(self) -> None:
        """Of a learner that was lost before it had written its part."""
        if self._begun is not None:
            logger.warning("%s was never written whole; it is dropped", self._begun[1])
            shutil.rmtree(self._begun[0], ignore_errors=True)
            self._begun = None

    def hold(self, step: int) -> None:
        """Its held-out reward will be known later; until then its checkpoint is not dropped."""
        self._held = step

    def may_be_best(self, step: int) -> bool:
        """Whether a checkpoint of it has to be written in any case."""
        return step in (self.best_step, self._held)

    def note_reward(self, reward: float, *, step: int) -> None:
        """Of a held-out evaluation; the checkpoint of the best step so far is never dropped. A step
        that came again has the reward of the policy that it has now."""
        if self._held == step:
            self._held = None
        best = self._read_best()
        if best is None or reward > best["reward"] or step == best["step"]:
            write_json_atomic(self._folder / BEST, {"step": step, "reward": reward})

    @property
    def best_step(self) -> int | None:
        """The step with the best held-out reward; None: none was noted."""
        best = self._read_best()
        return None if best is None else int(best["step"])

    def clean_up(self) -> None:
        """Mend and remove what earlier processes left half-written; only while nothing is being
        saved."""
        clean_up(self._folder)

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        for path in self._all():
            if is_whole(path):
                return path
            logger.warning("checkpoint %s is not whole; trying the one before", path)
        return None

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:06d}"

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob("step_*"), reverse=True)

    def _read_best(self) -> dict[str, float] | None:
        path = self._folder / BEST
        if not path.is_file():
            return None
        best: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return best


def write_checkpoint(
    path: Path, *, state: FrontierState, config: Config, save_learner: Callable[[str], int]
) -> None:
    """Write the folder whole, with a learner that has written when it returns; replaces one that
    is there. Raises LearnerError, see `begin_checkpoint`."""
    draft = begin_checkpoint(path, state=state, config=config, save_learner=save_learner)
    finish_checkpoint(draft, path)


def begin_checkpoint(
    path: Path, *, state: FrontierState, config: Config, save_learner: Callable[[str], int]
) -> Path:
    """The hidden folder beside `path` that everything is written into.

    `save_learner` returns the version that it saves; its folder appears when it is whole. Raises
    LearnerError when that is not the frontier's version: an update was cut short between its step
    and its broadcast.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: after Ctrl-C the learner may still write into an earlier draft.
    draft = draft_beside(path)
    draft.mkdir()
    version = save_learner(str(draft / LEARNER))
    if version != state.step:
        shutil.rmtree(draft, ignore_errors=True)
        raise LearnerError(
            f"no checkpoint of step {state.step}: the learner is at version {version}, since an "
            "update was cut short; the run goes on from the checkpoint before",
            retryable=False,
        )
    frontier = {
        "step": state.step,
        "next_ordinal": state.next_ordinal,
        "pending": list(state.pending),
    }
    write_json_atomic(draft / FRONTIER, frontier)
    write_groups(draft / GROUPS, state.finished)
    save_config(config, draft / "config.yaml")
    return draft


def finish_checkpoint(draft: Path, path: Path) -> None:
    """The manifest, and the rename."""
    write_json_atomic(draft / MANIFEST, {"files": file_sizes(draft)})
    put_folder_in_place(draft, path)


def is_whole(path: Path) -> bool:
    """Whether every file that the manifest names is there in full."""
    try:
        sizes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def read_frontier(path: Path) -> FrontierState:
    """Where a checkpoint left off. Raises ConfigError when it is not a whole checkpoint."""
    if not is_whole(path):
        raise ConfigError(f"{path} is not a whole checkpoint; give another one, or start afresh")
    tree = json.loads((path / FRONTIER).read_text(encoding="utf-8"))
    return FrontierState(
        step=tree["step"],
        next_ordinal=tree["next_ordinal"],
        pending=tuple(tree["pending"]),
        finished=read_groups(path / GROUPS),
    )
