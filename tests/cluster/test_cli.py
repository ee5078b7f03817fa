import io
import json
import logging
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli import app, clear_errors
from cluster.quiet import quiet_ray
from cluster.signals import stopped_like_ctrl_c
from core.errors import DataError, InfraError


@pytest.fixture(autouse=True)
def _no_keys_and_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "SERPER_API_KEY", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def gensearcher(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_doctor_lists_what_is_missing_for_machines() -> None:
    result = gensearcher("doctor", "--recipe", "gen-searcher-8b", "--json")

    assert result.exit_code == 1
    found = json.loads(result.stdout)
    failed = {check["name"]: check for check in found["failed"]}
    assert {"gpu", "host_memory", "judge_key", "search_key", "model_files"} <= set(failed)
    assert all(check["mend"] for check in failed.values())
    assert not found["ok"]


def test_the_doctor_tells_a_person_how_to_mend_it() -> None:
    result = gensearcher("doctor", "--recipe", "gen-searcher-8b")

    assert result.exit_code == 1
    assert "export OPENAI_API_KEY" in result.output


def test_the_published_recipe_is_planned_here() -> None:
    result = gensearcher("train", "--recipe", "gen-searcher-8b", "--plan")

    assert result.exit_code == 0
    for word in ("rollout worker", "optimizer", "one stage after the other", "assumed"):
        assert word in result.output


def test_a_plan_says_what_does_not_fit_here() -> None:
    result = gensearcher("train", "--recipe", "gen-searcher-8b", "--plan", "rollout.num_workers=99")

    text = result.output.replace("\n", " ")
    assert result.exit_code == 0, "it may be a plan for another machine"
    assert "on this machine" in text
    assert "200 GPUs of" in text
    assert "GiB are needed, this machine has" in text


def test_a_plan_follows_the_overrides() -> None:
    result = gensearcher("train", "--recipe", "gen-searcher-8b", "--plan", "rollout.num_workers=1")

    assert "gen-searcher-8b: 19 GPUs" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("train", "--recipe", "nano", "train.step=3"), "did you mean 'train.steps'"),
        (("train", "--recipe", "nanoo"), "did you mean 'nano'"),
        (("doctor", "train.steps=0"), "greater than or equal to 1, got 0"),
        (("doctor", "--mismatch", "/nowhere"), "the checkpoint /nowhere holds no policy"),
        (("eval", "nano", "--checkpoint", "/nowhere"), "holds no policy"),
        (("eval", "nano", "--agent", "none", "--checkpoint", "x"), "plays without one"),
        (("eval", "nano", "--agent", "openai"), "agent.model: none is set"),
        (("eval", "nano", "render.seeds=[0, 1]"), "draws one picture per task"),
        (("eval", "knowgen", "--data", "x.json", "judge.kind=pixels"), "reads only the flags"),
        (("eval", "wise", "--data", "x.json"), "export OPENAI_API_KEY"),
        (("train", "--recipe", "gen-searcher-8b"), "export SERPER_API_KEY"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...], sentence: str
) -> None:
    result = gensearcher(*arguments)

    assert result.exit_code == 2, result.output
    assert sentence in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "command",
    [
        ("nano", "build", "--out"),
        ("corpus", "build", "{pages}", "--out"),
        ("eval", "nano", "--stage", "judge", "--agent", "none", "--out"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_any_work(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "page.md").write_text("# Kea")
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "x"
    result = gensearcher(*(word.format(pages=tmp_path) for word in command), str(out))

    assert result.exit_code == 2, result.output
    assert "cannot be written (Not a directory)" in result.output.replace("\n", " ")


def test_a_finished_run_is_not_overwritten(tmp_path: Path, nano_ready: list[str]) -> None:
    folder = tmp_path / "runs" / "done"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"steps": 60}')

    result = gensearcher(
        "train", f"run.root={tmp_path}/runs", "run.name=done", "train.steps=60", *nano_ready
    )

    assert result.exit_code == 2
    assert "'done' has done its 60 steps" in result.output


@pytest.fixture
def nano_ready(tmp_path: Path) -> list[str]:
    """Overrides under which the doctor finds both models."""
    files = {"policy": "config.json", "renderer": "model_index.json"}
    for name, file in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    return [f"policy.path={tmp_path}/policy", f"render.path={tmp_path}/renderer"]


def test_an_unexpected_error_keeps_its_traceback() -> None:
    with pytest.raises(InfraError, match="the engine died"), clear_errors():
        raise InfraError("the engine died")


@pytest.mark.parametrize(("error", "code"), [(DataError("row 3"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes_tell_bad_input_from_an_interrupt(error: BaseException, code: int) -> None:
    from typer import Exit

    with pytest.raises(Exit) as caught, clear_errors():
        raise error

    assert caught.value.exit_code == code


def test_sigterm_interrupts_like_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), stopped_like_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)

    assert signal.getsignal(signal.SIGTERM) is before


def test_rays_chatter_is_kept_off_the_screen_but_not_its_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    logger = logging.getLogger("ray.serve")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(screen)])
    monkeypatch.setattr(logger, "filters", [])

    quiet_ray()
    logger.warning("queue length")
    logger.error("replica died")

    assert screen.getvalue() == "replica died\n"


@pytest.mark.parametrize("command", ["train", "sft", "eval", "demo", "doctor", "nano"])
def test_every_command_explains_itself(command: str) -> None:
    result = gensearcher(command, "--help")

    assert result.exit_code == 0
    assert "Usage" in result.output
