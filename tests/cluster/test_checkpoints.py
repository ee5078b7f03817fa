"""Checkpoints: whole or not at all, the newest whole one wins, the oldest are dropped."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.checkpoints import Checkpoints, read_frontier, write_checkpoint
from cluster.frontier import FrontierState
from core.config import Config, load_config
from core.errors import ConfigError, LearnerError
from tests.builders_cluster import save_whole


def state(step: int) -> FrontierState:
    return FrontierState(step=step, next_ordinal=step * 8 + 3, pending=(step * 8, step * 8 + 2))


def saver(version: int) -> Callable[[str], int]:
    def save_learner(folder: str) -> int:
        Path(folder).mkdir()
        (Path(folder) / "weights").write_bytes(b"1234")
        return version

    return save_learner


def save(checkpoints: Checkpoints, step: int) -> Path:
    return save_whole(checkpoints, state=state(step), config=Config(), save_learner=saver(step))


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.latest() is None
    path = save(checkpoints, 20)
    assert path.name == "step_000020"
    assert checkpoints.latest() == path
    assert read_frontier(path) == state(20)
    assert load_config(str(path / "config.yaml")) == Config()


def begin(checkpoints: Checkpoints, step: int) -> Path:
    """The folder that the learner has not written yet."""
    folders: list[str] = []

    def save_learner(folder: str) -> int:
        folders.append(folder)
        return step

    checkpoints.begin(state=state(step), config=Config(), save_learner=save_learner)
    return Path(folders[0])


def test_one_appears_when_the_learner_has_written_its_part(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.finish() is None
    before = save(checkpoints, 1)
    folder = begin(checkpoints, 2)
    assert checkpoints.finish() is None
    assert checkpoints.latest() == before
    saver(2)(str(folder))
    assert checkpoints.finish() == checkpoints.latest() == tmp_path / "step_000002"
    assert checkpoints.finish() is None


def test_one_that_was_never_written_makes_way_for_the_next(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    begin(checkpoints, 1)
    save(checkpoints, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000002"]


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


def test_a_torn_one_takes_no_place_of_those_that_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    torn = save(checkpoints, 30)
    (torn / "manifest.json").unlink()
    save(checkpoints, 20)
    newest = save(checkpoints, 25)
    assert checkpoints.latest() == newest
    assert {path.name for path in tmp_path.iterdir()} == {"step_000030", "step_000025"}


def test_a_crash_in_the_middle_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    whole = save(checkpoints, 1)

    def crash(folder: str) -> int:
        saver(2)(folder)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_checkpoint(
            tmp_path / "step_000002", state=state(2), config=Config(), save_learner=crash
        )
    assert checkpoints.latest() == whole
    save(checkpoints, 2)
    checkpoints.clean_up()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_learner_that_is_ahead_of_the_frontier_is_refused(tmp_path: Path) -> None:
    """An update that ended between its step and its broadcast, and then Ctrl-C."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    whole = save(checkpoints, 1)
    with pytest.raises(LearnerError, match="learner is at version 3"):
        save_whole(checkpoints, state=state(2), config=Config(), save_learner=saver(3))
    assert list(tmp_path.iterdir()) == [whole]


def test_the_best_one_is_kept_beside_the_last_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.best_step is None
    for step, reward in ((1, 0.2), (2, 0.7), (3, 0.5), (4, 0.7)):
        checkpoints.note_reward(reward, step=step)
        save(checkpoints, step)
    assert Checkpoints(tmp_path, keep=1).best_step == 2
    assert [path.name for path in sorted(tmp_path.glob("step_*"))] == ["step_000002", "step_000004"]


def test_a_step_that_comes_again_has_the_reward_of_its_new_policy(tmp_path: Path) -> None:
    """The learner was lost, and with it the policy that had scored 0.9."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, reward in ((1, 0.2), (2, 0.9), (2, 0.3), (3, 0.5)):
        checkpoints.note_reward(reward, step=step)
    assert checkpoints.best_step == 3


def test_one_that_stepped_aside_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    whole = save(checkpoints, 1)
    os.rename(whole, tmp_path / ".step_000001.replaced")
    assert checkpoints.latest() is None
    checkpoints.clean_up()
    assert checkpoints.latest() == whole


@pytest.mark.parametrize("is_written", [True, False])
def test_after_the_loss_of_a_learner_a_begun_checkpoint_counts_now_or_never(
    tmp_path: Path, is_written: bool
) -> None:
    told: list[Path] = []
    checkpoints = Checkpoints(tmp_path, keep=2, on_whole=told.append)
    save(checkpoints, 2)

    def writes(folder: str) -> int:
        return saver(4)(folder) if is_written else 4

    checkpoints.begin(state=state(4), config=Config(), save_learner=writes)
    found = checkpoints.last_whole()
    assert found is not None
    assert found.name == ("step_000004" if is_written else "step_000002")
    assert told[-1] == found, "one that only a loss puts in its place is uploaded too"
    assert checkpoints.finish() is None
    assert not list(tmp_path.glob(".step_*"))
