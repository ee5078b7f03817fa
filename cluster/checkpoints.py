"""Checkpoints of a run: runs/<name>/checkpoints/step_000020/, whole or not at all.

    learner/        the policy as a Hugging Face folder, and the learner's resumable state
    frontier.json   step, next ordinal, ordinals under way (they are issued again)
    config.yaml     the resolved config
    manifest.json   every file with its size; written last

A checkpoint is written into a hidden folder and renamed when it is complete. `latest` skips what
is torn: a folder without a manifest, or with a file that is missing or of another size.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from cluster.frontier import FrontierState
from core.config import Config, save_config
from core.errors import ConfigError
from core.files import write_json_atomic

logger = logging.getLogger(__name__)

LEARNER = "learner"
FRONTIER = "frontier.json"
MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def save(
        self, *, state: FrontierState, config: Config, save_learner: Callable[[str], None]
    ) -> Path:
        """Write one for `state.step` and drop the oldest beyond `keep`."""
        path = self._folder / f"step_{state.step:06d}"
        write_checkpoint(path, state=state, config=config, save_learner=save_learner)
        for old in self._all()[self._keep :]:
            logger.info("dropping checkpoint %s", old)
            shutil.rmtree(old)
        return path

    def drop_drafts(self) -> None:
        """Remove what earlier processes left half-written; only while nothing is being saved."""
        for draft in self._folder.glob(".step_*.draft-*"):
            shutil.rmtree(draft, ignore_errors=True)

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        for path in self._all():
            if is_whole(path):
                return path
            logger.warning("checkpoint %s is not whole; trying the one before", path)
        return None

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob("step_*"), reverse=True)


def write_checkpoint(
    path: Path, *, state: FrontierState, config: Config, save_learner: Callable[[str], None]
) -> None:
    """Write the folder under a hidden name, then rename it; replaces one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: after Ctrl-C the learner may still write into an earlier draft.
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.draft-"))
    save_learner(str(draft / LEARNER))
    write_json_atomic(draft / FRONTIER, asdict(state))
    save_config(config, draft / "config.yaml")
    sizes = {
        str(file.relative_to(draft)): file.stat().st_size
        for file in sorted(draft.rglob("*"))
        if file.is_file()
    }
    write_json_atomic(draft / MANIFEST, {"files": sizes})
    replaced = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        os.replace(path, replaced)
    os.replace(draft, path)
    shutil.rmtree(replaced, ignore_errors=True)


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
        step=tree["step"], next_ordinal=tree["next_ordinal"], pending=tuple(tree["pending"])
    )
