"""`gensearcher eval nano` on the real engines: vLLM, tools, diffusers, the pixel judge."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.recorder import read_rows

pytestmark = [pytest.mark.integration, pytest.mark.ray]

NUM_TASKS = 4


def evaluate(out: Path, *options: str) -> dict:  # type: ignore[type-arg]
    arguments = ["eval", "nano", "--checkpoint", "models/nano/policy", "--out", str(out), "--json"]
    result = CliRunner().invoke(
        app, [*arguments, *options, f"eval.num_tasks={NUM_TASKS}"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    tree: dict = json.loads(result.stdout)  # type: ignore[type-arg]
    return tree


def test_the_nano_agent_is_evaluated_and_an_evaluation_goes_on(
    ray_cluster: str, tmp_path: Path
) -> None:
    out = tmp_path / "nano"
    agent_alone = evaluate(out, "--stage", "agent")
    assert agent_alone["causes"] == {"render: not run": NUM_TASKS}

    whole = evaluate(out)
    assert (whole["n"], whole["scored"], whole["failed"]) == (NUM_TASKS, NUM_TASKS, 0)
    assert whole["this_run"]["reused"]["agent"] == NUM_TASKS
    assert whole["judges"] == ["pixels"]
    low, high = whole["headline"]["ci95"]
    assert 0.0 <= low <= whole["headline"]["mean"] <= high <= 1.0
    assert set(whole["overall"]["skip"]) >= {"score", "visual_correctness", "text_reward"}
    assert whole["episode"]["valid_rate"]["n"] == NUM_TASKS

    again = evaluate(out, "--stage", "judge")
    assert again["headline"] == whole["headline"]
    assert again["this_run"]["made"] == {}
    assert len(list(read_rows(out / "judge.jsonl"))) == NUM_TASKS
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
