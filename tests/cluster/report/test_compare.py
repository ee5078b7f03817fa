"""Two runs paired over shared tasks: the numbers, the refusals, the warnings, the page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.report.compare import compare, comparison_json, verdict, write_comparison
from cluster.report.scores import RunScores, TaskScore, load_scores, save_scores
from cluster.report.summary import make_heldout, save_heldout
from cluster.track.recorder import JsonlRecorder
from core.config import load_config, save_config
from core.errors import ConfigError, DataError
from core.records import Failure, Member, Stage
from tests.builders import make_member, make_score, make_task, make_trajectory

MADE_WITH = {"judge": "pixels", "rubric": "", "na_rule": "paper", "image model": "nano@1"}


def task(number: int, reward: float, *, group: str = "biology", **more: float) -> TaskScore:
    return TaskScore(
        task_id=f"t{number}",
        prompt=f"prompt {number}",
        groups=(group,),
        values={"reward": reward, **more},
    )


def run(name: str, *tasks: TaskScore, **changes: Any) -> RunScores:
    values: dict[str, Any] = {"made_with": MADE_WITH, "num_failed": 0, "headline": "reward"}
    return RunScores(name=name, tasks=tasks, **(values | changes))


def test_differences_are_paired_by_task_not_by_place() -> None:
    a = run("a", task(1, 0.0), task(2, 0.5), task(3, 1.0))
    b = run("b", task(3, 1.0), task(2, 1.0), task(1, 0.25))

    line = compare(a, b).line("reward")

    assert line is not None
    assert (line.mean_a, line.mean_b) == (0.5, 0.75)
    assert line.difference.mean == pytest.approx(0.25)  # (0.25 + 0.5 + 0) / 3
    low, high = line.difference.ci95
    assert 0.0 <= low <= 0.25 <= high <= 0.5, "inside the range of single differences"
    assert (line.higher, line.lower, line.difference.n) == (2, 0, 3)


def test_a_metric_counts_where_it_applies_in_both() -> None:
    a = run("a", task(1, 0.0, text_accuracy=0.0), task(2, 0.0))
    b = run("b", task(1, 0.0, text_accuracy=1.0), task(2, 0.0, text_accuracy=1.0))

    line = compare(a, b).line("text_accuracy")

    assert line is not None
    assert (line.difference.n, line.difference.mean) == (1, 1.0)


def test_every_group_has_its_own_lines() -> None:
    a = run("a", task(1, 0.0), task(2, 0.0, group="sports"))
    b = run("b", task(1, 1.0), task(2, 0.5, group="sports"))

    found = comparison_json(compare(a, b))

    assert found["groups"]["biology"]["reward"]["difference"] == 1.0
    assert found["groups"]["sports"]["reward"]["difference"] == 0.5
    assert found["overall"]["reward"]["difference"] == 0.75
    assert compare(run("a", task(1, 0.0)), run("b", task(1, 1.0))).line("reward", "biology") is None


def test_runs_without_a_shared_task_are_refused() -> None:
    other = replace(task(1, 0.0), prompt="the same id, another prompt")
    with pytest.raises(ConfigError, match="share no scored task"):
        compare(run("a", task(1, 0.0)), run("b", other))


def test_what_was_not_measured_alike_is_said_in_words() -> None:
    a = run("a", task(1, 0.0), task(2, 0.0))
    made_with = {**MADE_WITH, "judge": "openai:gpt-4.1", "na_rule": "renormalise"}
    made_with["rubric"] = "0123456789ab" + "c" * 52
    b = run("b", task(1, 0.0), made_with=made_with, num_failed=3)

    warnings = compare(a, b).warnings

    assert "The judge differs: pixels for a, openai:gpt-4.1 for b." in warnings
    assert "The rubric differs: not known for a, 0123456789ab for b." in warnings
    assert "The na_rule differs: paper for a, renormalise for b." in warnings
    assert "3 tasks of b failed by a fault of ours." in warnings
    assert "a alone has a score for 1 task." in warnings
    assert compare(a, a).warnings == ()


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ((1.0, 1.0, 0.9, 1.0, 0.8, 1.0), "b is better than a"),
        ((0.0, 0.0, 0.1, 0.0, 0.2, 0.0), "b is worse than a"),
        ((0.4, 0.6, 0.5, 0.5, 0.4, 0.6), "No difference between a and b is shown"),
        ((1.0,) * 5, "No difference between a and b is shown"),
    ],
)
def test_the_verdict_goes_by_the_interval_and_needs_six_tasks(
    rewards: tuple[float, ...], words: str
) -> None:
    a = run("a", *(task(n, 0.5) for n in range(len(rewards))))
    b = run("b", *(task(n, reward) for n, reward in enumerate(rewards)))

    assert verdict(compare(a, b)).startswith(words)


def test_the_page_shows_what_the_json_holds_and_escapes_names(tmp_path: Path) -> None:
    a = run("<a>", task(1, 0.0, tool_calls=2.0), task(2, 0.0, group="sports"))
    b = run("b", task(1, 1.0, tool_calls=3.0), task(2, 0.5, group="sports"))

    page = write_comparison(compare(a, b), tmp_path / "out").read_text(encoding="utf-8")

    assert json.loads((tmp_path / "out" / "compare.json").read_text())["shared_tasks"] == 2
    assert page.count("<svg") == 2, "by metric, and by kind of task"
    assert "&lt;a&gt;" in page
    assert "<a>" not in page
    assert "+0.750" in page


def played(folder: Path, rewards: dict[str, float], *, failed: int = 0, **render: str) -> Path:
    """A run folder as training leaves it."""
    members = [
        make_member(
            outcome=make_score(reward),
            index=0,
            task=(one := make_task(task_id=name, prompt=f"draw {name}")),
            trajectory=make_trajectory(task=one),
        )
        for name, reward in rewards.items()
    ]
    broken = Failure(stage=Stage.JUDGE, error_type="HTTP 500", message="down", retryable=True)
    lost = [
        Member(rollout_id=members[0].rollout_id, trajectory=None, rendered=None, outcome=broken)
    ] * failed
    recorder = JsonlRecorder(folder)
    for member in (*members, *lost):
        recorder.member(member, mode="eval", step=1)
    recorder.close()
    save_heldout(make_heldout([*members, *lost], when="after", step=1, num_showcase=0), folder)
    overrides = [f"{key}={value}" for key, value in render.items()]
    save_config(load_config("nano", overrides=overrides), folder / "config.yaml")
    return folder


def test_training_runs_are_read_from_their_held_out_results(tmp_path: Path) -> None:
    folder = played(tmp_path / "base", {"x": 0.25, "y": 0.75}, failed=1)

    scores = load_scores(folder)

    assert [(one.task_id, one.prompt) for one in scores.tasks] == [
        ("x", "draw x"),
        ("y", "draw y"),
    ]
    assert [one.values["reward"] for one in scores.tasks] == [0.25, 0.75]
    assert (scores.name, scores.num_failed) == ("base", 1)
    assert scores.made_with["na_rule"] == "renormalise"


def test_scores_on_disk_come_back_as_they_were(tmp_path: Path) -> None:
    scores = run("a", task(1, 0.5))
    save_scores(scores, tmp_path)
    assert load_scores(tmp_path) == scores
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(DataError, match=r"scores\.json: .* evaluate the run again"):
        load_scores(tmp_path)


def test_the_command_compares_two_folders(tmp_path: Path) -> None:
    a = played(tmp_path / "base", {"x": 0.0, "y": 0.5})
    b = played(tmp_path / "tuned", {"x": 1.0, "y": 1.0})

    done = CliRunner().invoke(app, ["compare", str(a), str(b), "--json"])

    assert done.exit_code == 0
    assert json.loads(done.stdout)["overall"]["reward"]["difference"] == 0.75
    assert (b / "against_base" / "compare.html").is_file()
    odd = a.rename(tmp_path / "base[b]")
    said = CliRunner().invoke(app, ["compare", str(odd), str(b)]).output
    assert "base[b]" in said, "brackets of a name are no markup"
    missing = CliRunner().invoke(app, ["compare", str(b), str(tmp_path)])
    assert missing.exit_code == 2
