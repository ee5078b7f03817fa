"""What an evaluation refuses before anything is started or paid for."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.bench.parts import needed_actors
from cluster.bench.plan import EvalPlan
from cluster.bench.ready import claimed_folder, refuse_unready
from cluster.cli import app
from core.config import Config, build_config, load_config, save_config
from core.errors import ConfigError

PLAN = EvalPlan(benchmark="knowgen", agent="none", stages=("judge",), missing="zero")
WISE = replace(PLAN, benchmark="wise", edition="legacy")
JUDGE = {"judge": {"kind": "openai", "model": "eye", "api_key_env": ""}}


@pytest.mark.parametrize(
    ("agent", "checkpoint", "name"),
    [
        ("none", None, "eval-nano-none"),
        ("checkpoint", None, "eval-nano"),
        ("checkpoint", "runs/mine/checkpoints/step_000020", "eval-nano-mine-step_000020"),
        ("checkpoint", "models/nano/policy", "eval-nano-policy"),
    ],
)
def test_every_agent_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str, checkpoint: str | None, name: str
) -> None:
    """Nothing is there to be judged, so the command ends before it starts anything."""
    options = ["--agent", agent, "--limit", "1", "--json", f"run.root={tmp_path}"]
    if checkpoint is not None:
        policy = tmp_path / checkpoint
        policy.mkdir(parents=True)
        (policy / "config.json").write_text("{}", encoding="utf-8")
        options += ["--checkpoint", str(policy)]
    done = CliRunner().invoke(app, ["eval", "nano", "--stage", "judge", *options])

    assert done.exit_code == 0, done.output
    assert (tmp_path / name / "summary.json").is_file()


def test_a_folder_that_is_no_name_is_refused_in_the_users_words(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["eval", "nano", "--out", str(tmp_path / "my results")])
    assert done.exit_code == 2
    assert "--out: 'my results' is also the evaluation's name; use letters" in done.output


def test_a_folder_is_one_benchmarks_own(tmp_path: Path) -> None:
    out = tmp_path / "eval"
    claim(PLAN, out)
    claim(replace(PLAN, stages=("render",)), out)
    with pytest.raises(ConfigError, match="holds an evaluation of knowgen, not of wise legacy"):
        claim(WISE, out)
    claim(WISE, tmp_path / "wise")
    with pytest.raises(ConfigError, match="of wise legacy, not of wise verified"):
        claim(replace(WISE, edition="verified"), tmp_path / "wise")


def test_two_evaluations_never_share_a_folder(tmp_path: Path) -> None:
    with (
        claimed_folder(PLAN, tmp_path),
        pytest.raises(ConfigError, match="in use by another process"),
    ):
        claim(PLAN, tmp_path)
    claim(PLAN, tmp_path)


def claim(plan: EvalPlan, folder: Path) -> None:
    with claimed_folder(plan, folder):
        pass


def test_a_training_run_is_not_written_over(tmp_path: Path) -> None:
    save_config(load_config("nano"), tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="is the folder of a run"):
        claim(PLAN, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("plan", "config", "sentence"),
    [
        (PLAN, Config(), "set judge.kind=openai"),
        (PLAN, build_config(JUDGE | {"render": {"seeds": [0, 1]}}), "one picture per task"),
        (replace(PLAN, agent="openai", stages=("agent",)), Config(), "agent.model: none is set"),
        (
            replace(WISE, data=Path("WISE/data_verified/merge.json")),
            build_config(JUDGE),
            "add --edition verified",
        ),
        (
            replace(WISE, edition="verified", data=Path("WISE_legacy/data")),
            build_config(JUDGE),
            "add --edition legacy",
        ),
    ],
)
def test_choices_that_do_not_go_together_are_refused(
    plan: EvalPlan, config: Config, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        refuse_unready(plan, config)


def test_the_right_edition_is_taken() -> None:
    refuse_unready(replace(WISE, data=Path("WISE_legacy/data_verified")), build_config(JUDGE))
    refuse_unready(replace(WISE, data=Path("merge.json")), build_config(JUDGE))


def test_a_summariser_of_the_run_needs_ray_though_an_endpoint_plays() -> None:
    served = {"summariser": {"max_page_tokens": 512, "served": {"path": "reader"}}}
    config = build_config({**JUDGE, "tools": served})
    played = replace(PLAN, agent="openai", stages=("agent", "judge"))

    assert not played.needs_ray(build_config(JUDGE))
    assert played.needs_ray(config)
    assert [one.name for one in needed_actors(played, config)] == ["served summariser model"]
    assert not PLAN.needs_ray(config), "nothing is browsed"
