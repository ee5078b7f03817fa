"""`--agent none` and `--agent openai` from the command line: HTTP alone, without Ray.

The trained and the untrained policy need vLLM: tests/integration/test_eval_nano.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.track.recorder import read_rows
from tests.fakes.agent_server import AgentServer, answer, call
from tests.fakes.bench_command import eval_command, evaluate, write_knowgen
from tests.fakes.image_servers import ImageServer
from tests.fakes.judge_server import JudgeServer, in_thread

NUM_ROWS = 6

pytestmark = pytest.mark.slow


@pytest.fixture
def painter() -> Iterator[ImageServer]:
    with in_thread(ImageServer()) as server:
        yield server


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with in_thread(JudgeServer()) as server:
        yield server


def knowgen(folder: Path, out: str, agent: str, *servers: Any) -> list[str]:
    judge, painter = servers
    data = folder / "KnowGen-Bench.json"
    return eval_command(
        "knowgen",
        *("--data", str(data), "--recipe", "nano", "--agent", agent, "--out", str(folder / out)),
        judge_url=judge.base_url,
        images_url=painter.base_url("openai"),
    )


def play(task: str, turns: int) -> str | int:
    """Task 2 never gets to the point, task 3's endpoint is out of order, the others look first."""
    if "number 2" in task:
        return "I would rather talk."
    if "number 3" in task:
        return 400
    if turns == 0:
        return call("image_search", query="the flag of Torvi")
    return answer(f"{task} As in the first reference image.", "IMG_001")


def test_an_endpoint_plays_and_can_be_compared_with_the_raw_prompt(
    tmp_path: Path, painter: ImageServer, judge: JudgeServer
) -> None:
    write_knowgen(tmp_path, num_rows=NUM_ROWS)
    raw = evaluate(knowgen(tmp_path, "raw", "none", judge, painter))
    assert (raw["scored"], raw["fallbacks"], raw["policy"]) == (NUM_ROWS, 0, None)
    assert {path for path, _ in painter.events} == {"/v1/images/generations"}

    painter.events.clear()
    with in_thread(AgentServer(play)) as agent:
        command = knowgen(tmp_path, "agent", "openai", judge, painter)
        asked = [*command, "agent.model=chatty", f"agent.base_url={agent.base_url}"]
        asked += ["agent.prompt_usd=10", "policy.system_prompt=full", "rollout.max_context=6000"]
        tree = evaluate(asked)

    assert (tree["policy"], tree["scored"]) == ("chatty", NUM_ROWS - 1)
    assert (tree["fallbacks"], tree["causes"]) == (1, {"infra: HTTP 400": 1})
    edits = [body for path, body in painter.events if path.endswith("edits")]
    assert len(edits) == NUM_ROWS - 2, "those that chose a reference"
    assert all("first reference image" in body["prompt"] for body in edits)
    assert tree["cost_usd"] == pytest.approx(100 * 10e-6 * (len(agent.bodies) - 1), rel=0.01)
    played = {row["task_id"]: row["outcome"] for row in read_rows(tmp_path / "agent/agent.jsonl")}
    assert played["3000"]["values"]["tool_calls"] == 1.0
    assert played["3002"]["gen_prompt"] == "Draw made-up thing number 2."

    done = CliRunner().invoke(
        app, ["compare", str(tmp_path / "raw"), str(tmp_path / "agent"), "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["headline"], found["shared_tasks"]) == ("score", NUM_ROWS - 1)
    assert found["overall"]["score"]["n"] == NUM_ROWS - 1
    assert "1 task of agent failed by a fault of ours." in found["warnings"]
    assert (tmp_path / "agent/against_raw/compare.html").is_file()
