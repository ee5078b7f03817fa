from pathlib import Path

import pytest

from cluster.run_folder import held_folder, policy_of_checkpoint, set_aside, steps_done
from core.errors import ConfigError, DataError


def test_a_run_that_is_set_aside_keeps_every_file(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / "metrics.jsonl").write_text(text)
        set_aside(tmp_path / "demo")

    assert (tmp_path / "demo.1" / "metrics.jsonl").read_text() == "first"
    assert (tmp_path / "demo.2" / "metrics.jsonl").read_text() == "second"
    assert not (tmp_path / "demo").exists()


def test_there_is_nothing_to_set_aside_before_the_first_run(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "demo") is None


def test_a_run_is_finished_when_its_summary_is_there(tmp_path: Path) -> None:
    assert steps_done(tmp_path) is None

    (tmp_path / "summary.json").write_text('{"steps": 7}')

    assert steps_done(tmp_path) == 7


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"steps": null}'])
def test_a_summary_that_is_none_is_named_with_its_mend(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)

    with pytest.raises(DataError, match=r"summary\.json is no summary .*; remove the file"):
        steps_done(tmp_path)


def test_a_run_at_work_lets_no_other_into_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with held_folder(folder):
        with pytest.raises(ConfigError, match="in use by another process"), held_folder(folder):
            pass
        with pytest.raises(ConfigError, match="in use by another process"):
            set_aside(folder)
    with held_folder(folder):
        assert folder.is_dir()


def test_a_folder_that_cannot_be_made_is_named_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(
            ConfigError, match=r"cannot be written \(Not a directory\); set run\.root, or"
        ),
        held_folder(tmp_path / "file" / "demo"),
    ):
        pass


@pytest.mark.parametrize("inside", ["learner/policy", "policy", "."])
def test_a_policy_is_found_in_a_checkpoint_and_by_itself(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")

    assert policy_of_checkpoint(tmp_path).resolve() == folder.resolve()


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no policy"):
        policy_of_checkpoint(tmp_path)
