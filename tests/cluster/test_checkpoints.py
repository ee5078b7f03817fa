"""Checkpoints: whole or not at all, the newest whole one wins, the oldest are dropped."""

from pathlib import Path

import pytest

from cluster.checkpoints import Checkpoints, read_frontier, write_checkpoint
from cluster.frontier import FrontierState
from core.config import Config, load_config
from core.errors import ConfigError


def state(step: int) -> FrontierState:
    return FrontierState(step=step, next_ordinal=step * 8 + 3, pending=(step * 8, step * 8 + 2))


def save_learner(folder: str) -> None:
    Path(folder).mkdir()
    (Path(folder) / "weights").write_bytes(b"1234")


def save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save(state=state(step), config=Config(), save_learner=save_learner)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.latest() is None
    path = save(checkpoints, 20)
    assert path.name == "step_000020"
    assert checkpoints.latest() == path
    assert read_frontier(path) == state(20)
    assert load_config(str(path / "config.yaml")) == Config()


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(checkpoints, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000002", "step_000003"]


@pytest.mark.parametrize("damage", ["cut", "lost", "no manifest"])
def test_a_torn_checkpoint_is_skipped(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    whole = save(checkpoints, 1)
    torn = save(checkpoints, 2)
    match damage:
        case "cut":
            (torn / "learner" / "weights").write_bytes(b"12")
        case "lost":
            (torn / "learner" / "weights").unlink()
        case _:
            (torn / "manifest.json").unlink()
    assert checkpoints.latest() == whole
    with pytest.raises(ConfigError, match="step_000002"):
        read_frontier(torn)


def test_a_crash_in_the_middle_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    whole = save(checkpoints, 1)

    def crash(folder: str) -> None:
        save_learner(folder)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_checkpoint(
            tmp_path / "step_000002", state=state(2), config=Config(), save_learner=crash
        )
    assert checkpoints.latest() == whole
    save(checkpoints, 2)
    checkpoints.drop_drafts()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
