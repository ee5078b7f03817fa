import json
import logging
import threading
from pathlib import Path

import pytest
import torch

from core.errors import ConfigError
from core.files import watched_writes
from learners.checkpoint import (
    CheckpointWriter,
    TrainState,
    find_damage,
    latest_checkpoint,
    load_checkpoint,
    policy_folder,
    prune_checkpoints,
    save_checkpoint,
)


def write(folder: Path, *, step: int = 3, word: str = "weights") -> Path:
    state = TrainState(
        step=step,
        version=2,
        tensors={"master/a": torch.arange(3.0), "rng": torch.get_rng_state()},
        lora_scale=2.0,
    )

    def write_policy(path: Path) -> None:
        (path / "model.safetensors").write_text(word)

    save_checkpoint(folder, state=state, write_policy=write_policy)
    return folder


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = write(tmp_path / "step_3")
    state = load_checkpoint(folder)
    assert (state.step, state.version, state.lora_scale) == (3, 2, 2.0)
    assert state.tensors["master/a"].tolist() == [0, 1, 2]
    assert torch.equal(state.tensors["rng"], torch.get_rng_state())
    assert (policy_folder(folder) / "model.safetensors").read_text() == "weights"


def test_a_checkpoint_from_before_scales_were_written_down_loads(tmp_path: Path) -> None:
    folder = write(tmp_path / "step_3")
    numbers = json.loads((folder / "state.json").read_text())
    del numbers["lora_scale"]
    (folder / "state.json").write_text(json.dumps(numbers))
    assert load_checkpoint(folder).lora_scale is None


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "last")
    write(tmp_path / "last", step=4, word="newer")
    assert load_checkpoint(tmp_path / "last").step == 4
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_every_file_is_on_disk_before_the_folder_gets_its_name(tmp_path: Path) -> None:
    moments: list[str] = []
    with watched_writes(moments.append):
        write(tmp_path / "last")
    named = moments.index("before rename last")
    files = [path.name for path in (tmp_path / "last").rglob("*")]
    assert {f"after fsync {name}" for name in files} <= set(moments[:named])
    assert "after fsync " + tmp_path.name in moments[named:], "the folder that has the name"


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "last")

    def full_disk(path: Path) -> None:
        (path / "model.safetensors").write_text("half")
        raise OSError("no space left on device")

    state = TrainState(step=9, version=9, tensors={})
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path / "last", state=state, write_policy=full_disk)
    assert load_checkpoint(tmp_path / "last").step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    writer, go_on = CheckpointWriter(), threading.Event()

    def write_policy(path: Path) -> None:
        assert go_on.wait(timeout=60)
        (path / "model.safetensors").write_text("weights")

    state = TrainState(step=3, version=2, tensors={})
    writer.start(tmp_path / "last", state=state, write_policy=write_policy)
    assert not (tmp_path / "last").exists()
    go_on.set()
    writer.wait()
    assert load_checkpoint(tmp_path / "last").step == 3


def test_an_error_of_the_writing_thread_comes_out_once(tmp_path: Path) -> None:
    writer = CheckpointWriter()

    def full_disk(path: Path) -> None:
        raise OSError("no space left on device")

    state = TrainState(step=3, version=2, tensors={})
    writer.start(tmp_path / "last", state=state, write_policy=full_disk)
    with pytest.raises(OSError, match="no space"):
        writer.wait()
    writer.wait()
    assert list(tmp_path.iterdir()) == []


def test_the_latest_whole_checkpoint_is_found_and_torn_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write(tmp_path / "step_1")
    short = write(tmp_path / "step_2")
    (policy_folder(short) / "model.safetensors").write_text("wei")
    unfinished = write(tmp_path / "step_3")
    (unfinished / "state.json").unlink()
    (tmp_path / ".step_4.abc").mkdir()
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) == whole
    assert "model.safetensors has 3 of 7 bytes" in caplog.text
    assert "its writing never ended" in caplog.text


def test_pruning_keeps_the_last_whole_ones_whatever_torn_ones_stand_after_them(
    tmp_path: Path,
) -> None:
    for number in range(1, 5):
        write(tmp_path / f"step_{number}")
    (tmp_path / "step_4" / "state.json").unlink()
    prune_checkpoints(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_3", "step_4"]
    prune_checkpoints(tmp_path, keep=2)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_3"


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "never") is None
    assert latest_checkpoint(tmp_path) is None


def test_loading_a_torn_checkpoint_says_what_is_wrong(tmp_path: Path) -> None:
    folder = write(tmp_path / "step_1")
    (folder / "state.safetensors").unlink()
    with pytest.raises(ConfigError, match="has 0 of"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}'])
def test_an_unreadable_state_is_damage(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "step_1")
    (folder / "state.json").write_text(text)
    assert find_damage(folder) == "has a state.json that cannot be read"


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    state = json.loads((write(tmp_path / "step_1") / "state.json").read_text())
    assert set(state["files"]) == {"policy/model.safetensors", "state.safetensors"}
