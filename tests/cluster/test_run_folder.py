from pathlib import Path

import pytest

from cluster.run_folder import policy_of_checkpoint, set_aside, steps_done
from core.errors import ConfigError


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


@pytest.mark.parametrize("inside", ["learner/policy", "policy", "."])
def test_a_policy_is_found_in_a_checkpoint_and_by_itself(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")

    assert policy_of_checkpoint(tmp_path).resolve() == folder.resolve()


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no policy"):
        policy_of_checkpoint(tmp_path)
