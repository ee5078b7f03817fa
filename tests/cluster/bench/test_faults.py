"""Evaluations from the command line, without Ray, against a judge with every fault there is.

The judge and the image API are on loopback and count what they were paid for, by content.
"""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.track.recorder import read_rows
from tests.fakes.bench_command import WIDTH, environment, eval_command, evaluate, write_knowgen
from tests.fakes.image_servers import ImageServer
from tests.fakes.judge_server import Fault, JudgeServer, first_tries_fail, in_thread

NUM_ROWS = 200
TRANSIENT = (
    *(Fault.STORM, Fault.ERROR, Fault.TRUNCATED, Fault.WRONG_JSON),
    *(Fault.OFF_SCALE, Fault.SLOW, Fault.FENCED),
)
CAUSES = {
    *("judge: BadReply", "judge: Blocked", "judge: HTTP 503"),
    "render: moderation_blocked",
}

pytestmark = pytest.mark.slow


@pytest.fixture
def painter() -> Iterator[ImageServer]:
    with in_thread(ImageServer()) as server:
        yield server


def stubborn(content: str, asked_before: int) -> Fault | None:
    """One row in ten never gets a verdict, two in five get one at the second try."""
    number = int(content[-4:], 16)
    if number % 10 == 0:
        return (Fault.OFF_SCALE, Fault.BLOCKED, Fault.ERROR)[number % 3]
    return first_tries_fail(*TRANSIENT, share=0.4)(content, asked_before)


def retries(server: JudgeServer) -> int:
    """Exchanges that a client has to make again, or give up on."""
    good = (Fault.SLOW, Fault.FENCED)
    return sum(count for fault, count in server.faults_made.items() if fault not in good)


def test_every_row_is_scored_or_failed_with_its_cause(tmp_path: Path) -> None:
    data = write_knowgen(tmp_path, num_rows=NUM_ROWS)
    judge = JudgeServer(faults=stubborn, slow_s=0.3, retry_after_s=0.02)
    painter = ImageServer(faults=["429", "500", "not_json", "blocked"])
    with in_thread(judge), in_thread(painter):
        tree = evaluate(knowgen(data, tmp_path / "out", judge, painter))

    lost = 1 + sum(stubborn(content, 9) is not None for content in judge.asked)
    assert (tree["n"], tree["failed"], tree["scored"]) == (NUM_ROWS, lost, NUM_ROWS - lost)
    assert len(judge.asked) == NUM_ROWS - 1, "the picture that was refused is not judged"
    assert set(tree["causes"]) == CAUSES
    assert sum(tree["causes"].values()) == lost
    assert set(judge.faults_made) >= {*TRANSIENT, Fault.BLOCKED}
    assert judge.num_calls <= NUM_ROWS + retries(judge)
    assert judge.num_paid_twice == 0
    assert len(painter.events) == NUM_ROWS + 3, "three tries again"
    written = read(tmp_path / "out/knowgen/generation/results_eval.json")
    without = [row for row in written[:NUM_ROWS] if not row.get("eval_success")]
    assert len(without) == lost
    assert all(row["error"] for row in without)
    assert [row["summary_type"] for row in written[NUM_ROWS:]][-1] == "overall_avg"
    skip, zero = (tree["overall"][figure]["score"]["mean"] for figure in ("skip", "zero"))
    assert 0 < zero < skip


def test_killed_in_the_middle_and_resumed_it_pays_nothing_twice(
    tmp_path: Path, painter: ImageServer
) -> None:
    """kill -9 while verdicts are on disk and others are asked for; the servers count."""
    killed = False
    judge: JudgeServer

    def script(content: str, asked_before: int) -> Fault | None:
        """Until the kill, verdicts after the sixtieth are held back."""
        if not killed and judge.paid.total() >= 60:
            return Fault.SLOW
        return first_tries_fail(Fault.STORM, Fault.TRUNCATED, share=0.2)(content, asked_before)

    judge = JudgeServer(faults=script, slow_s=600.0, retry_after_s=0.02)
    out = tmp_path / "out"
    with in_thread(judge):
        command = knowgen(write_knowgen(tmp_path, num_rows=NUM_ROWS), out, judge, painter)
        process = subprocess.Popen([*command, "--json"], env=environment())
        wait_until_held_back(judge, out, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = True
        paid = judge.paid.total()
        tree = evaluate(command)

    assert tree["scored"] == NUM_ROWS
    assert tree["this_run"]["reused"]["judge"] == paid
    assert 60 <= paid < NUM_ROWS
    assert judge.num_paid_twice == 0
    assert judge.paid.total() == NUM_ROWS
    assert judge.num_calls <= NUM_ROWS + retries(judge) + WIDTH  # those never answered
    assert len(painter.events) == len({body["prompt"] for _, body in painter.events}) == NUM_ROWS
    rows = list(read_rows(out / "judge.jsonl"))
    assert len(rows) == len({row["task_id"] for row in rows}) == NUM_ROWS


@pytest.mark.parametrize(
    ("edition", "scores"),
    [
        ("legacy", {"prompt_id", "Subcategory", "consistency", "realism", "aesthetic_quality"}),
        ("verified", {"prompt_id", "Subcategory", "score"}),
    ],
)
def test_wise_is_scored_in_both_editions_and_no_failed_row_is_averaged(
    tmp_path: Path, painter: ImageServer, edition: str, scores: set[str]
) -> None:
    ids = [1, 2, 3, 410, 450, 600, 650, 710, 755, 820, 870, 930, 990]
    data = tmp_path / "merge.json"
    data.write_text(json.dumps([wise_row(number) for number in ids]), encoding="utf-8")

    def third_is_blocked(content: str, asked_before: int) -> Fault | None:
        asked = next(seen.text for seen in judge.seen if seen.content == content)
        if re.search(r"made-up fact 3\b", asked):
            return Fault.BLOCKED
        return first_tries_fail(*TRANSIENT, share=0.4)(content, asked_before)

    judge = JudgeServer(faults=third_is_blocked, slow_s=0.1, retry_after_s=0.02)
    options = ("--data", str(data), "--edition", edition, "--agent", "none")
    with in_thread(judge):
        tree = evaluate(
            eval_command(
                "wise",
                *(*options, "--out", str(tmp_path / "out")),
                judge_url=judge.base_url,
                images_url=painter.base_url("openai"),
            )
        )

    assert (tree["n"], tree["scored"], tree["causes"]) == (13, 12, {"judge: Blocked": 1})
    assert judge.num_paid_twice == 0
    assert judge.num_calls <= len(ids) + retries(judge)
    assert tree["overall"]["zero"]["score"]["mean"] <= tree["overall"]["skip"]["score"]["mean"]
    lines = [
        json.loads(line)
        for file in sorted((tmp_path / "out/wise").glob("*_scores_results.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert sorted(line["prompt_id"] for line in lines) == sorted({*ids} - {3})
    assert all(set(line) == scores for line in lines)
    assert (tmp_path / "out/wise/images/3.png").is_file()


def knowgen(data: Path, out: Path, judge: JudgeServer, painter: ImageServer) -> list[str]:
    return eval_command(
        "knowgen",
        *("--data", str(data), "--agent", "none", "--out", str(out)),
        judge_url=judge.base_url,
        images_url=painter.base_url("openai"),
    )


def wise_row(number: int) -> dict[str, Any]:
    return {
        "prompt_id": number,
        "Prompt": f"The thing that made-up fact {number} is about",
        "Explanation": f"It is as made-up fact {number} says.",
        "Category": "Made up",
        "Subcategory": "Plant",
    }


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def wait_until_held_back(
    judge: JudgeServer, folder: Path, process: "subprocess.Popen[bytes]"
) -> None:
    """All is drawn; every verdict that was paid for is on disk; all places wait for another."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        drawn, judged = (count_rows(folder / f"{name}.jsonl") for name in ("render", "judge"))
        held_back = judge.in_flight == WIDTH and judged == judge.paid.total() >= 60
        if held_back and drawn == NUM_ROWS:
            return
        time.sleep(0.05)
    raise AssertionError("the evaluation never came to the point where it is killed")


def count_rows(path: Path) -> int:
    return sum(1 for _ in read_rows(path)) if path.is_file() else 0
