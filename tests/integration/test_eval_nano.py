"""`gensearcher eval nano` on the real engines: vLLM, tools, diffusers, the pixel judge."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.track.recorder import read_rows

pytestmark = [pytest.mark.integration, pytest.mark.ray]

NUM_TASKS = 4


TRAINED = ("--checkpoint", "models/nano/policy")


def evaluate(out: Path, *options: str) -> dict[str, Any]:
    arguments = ["eval", "nano", "--out", str(out), "--json", *options]
    result = CliRunner().invoke(
        app, [*arguments, f"eval.num_tasks={NUM_TASKS}"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    tree: dict[str, Any] = json.loads(result.stdout)
    return tree


def test_the_nano_agent_is_evaluated_and_an_evaluation_goes_on(
    ray_cluster: str, tmp_path: Path
) -> None:
    out = tmp_path / "nano"
    agent_alone = evaluate(out, *TRAINED, "--stage", "agent")
    assert agent_alone["causes"] == {"render: not run": NUM_TASKS}

    whole = evaluate(out, *TRAINED)
    assert (whole["n"], whole["scored"], whole["failed"]) == (NUM_TASKS, NUM_TASKS, 0)
    assert whole["this_run"]["reused"]["agent"] == NUM_TASKS
    assert whole["judges"] == ["pixels"]
    low, high = whole["headline"]["ci95"]
    assert 0.0 <= low <= whole["headline"]["mean"] <= high <= 1.0
    assert set(whole["overall"]["skip"]) >= {"score", "visual_correctness", "text_reward"}
    assert whole["episode"]["valid_rate"]["n"] == NUM_TASKS

    again = evaluate(out, *TRAINED, "--stage", "judge")
    assert again["headline"] == whole["headline"]
    assert again["this_run"]["made"] == {}
    assert len(list(read_rows(out / "judge.jsonl"))) == NUM_TASKS
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page


def test_an_untrained_model_plays_with_the_tools_and_the_full_prompt(
    ray_cluster: str, tmp_path: Path
) -> None:
    options = ("--agent", "workflow", "--stage", "agent", "--limit", "2")
    tree = evaluate(tmp_path / "workflow", *options, "rollout.max_context=4096")

    assert (tree["agent"], tree["n"], tree["this_run"]["made"]) == ("workflow", 2, {"agent": 2})
    for row in read_rows(tmp_path / "workflow/agent.jsonl"):
        system, task, first, *_ = row["outcome"]["messages"]
        assert "# Tools" in system["text"]
        assert "image_search" in system["text"]
        assert (task["role"], first["role"]) == ("user", "assistant")
