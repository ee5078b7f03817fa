"""`gensearcher eval` as a user meets it: bad rows, missing scores, prompts that others score."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.fakes.bench_command import environment, eval_command, evaluate, write_knowgen
from tests.fakes.image_servers import ImageServer
from tests.fakes.judge_server import Fault, JudgeServer, in_thread


@pytest.fixture
def painter() -> Iterator[ImageServer]:
    with in_thread(ImageServer()) as server:
        yield server


def test_a_bad_row_is_named_before_anything_is_paid_for(
    tmp_path: Path, painter: ImageServer
) -> None:
    data = write_knowgen(tmp_path, num_rows=3)
    rows = json.loads(data.read_text(encoding="utf-8"))
    rows[2]["meta"]["category"] = "biologie"
    data.write_text(json.dumps(rows), encoding="utf-8")
    done = run(knowgen(data, tmp_path / "out", "http://127.0.0.1:9", painter))

    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "row 2: meta.category: 'biologie' is not known; did you mean 'biology'?" in said
    assert "Traceback" not in done.stderr
    assert painter.events == []


def test_missing_fail_has_no_headline_and_ends_with_1_until_every_row_is_scored(
    tmp_path: Path, painter: ImageServer
) -> None:
    data, blocked = write_knowgen(tmp_path, num_rows=4), True

    def script(content: str, asked_before: int) -> Fault | None:
        asked = next(seen.text for seen in judge.seen if seen.content == content)
        return Fault.BLOCKED if blocked and "number 1." in asked else None

    judge = JudgeServer(faults=script)
    with in_thread(judge):
        command = knowgen(data, tmp_path / "out", judge.base_url, painter, "--missing", "fail")
        done = run([*command, "--json"])
        tree = json.loads(done.stdout)
        assert (done.returncode, tree["headline"], tree["failed"]) == (1, None, 1)
        assert "1 task has no score" in done.stderr
        assert tree["overall"]["skip"]["score"]["n"] == 3, "both figures stand there all the same"
        assert tree["overall"]["zero"]["score"]["n"] == 4
        blocked = False
        tree = evaluate(command)

    assert tree["headline"]["n"] == 4
    assert tree["this_run"]["reused"] == {"agent": 4, "render": 4, "judge": 3}
    assert len(painter.events) == 4


def test_pictures_are_drawn_where_geneval_looks_for_them_and_nobody_judges(
    tmp_path: Path, painter: ImageServer
) -> None:
    data = tmp_path / "evaluation_metadata.jsonl"
    lines = [{"tag": "counting", "prompt": f"{n} kites"} for n in (2, 3)]
    data.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    out = tmp_path / "out"
    tree = evaluate(
        eval_command(
            "prompts",
            *("--data", str(data), "--format", "geneval", "--agent", "none", "--out", str(out)),
            judge_url="http://127.0.0.1:9",
            images_url=painter.base_url("openai"),
        )
    )

    assert (tree["n"], tree["scored"], tree["failed"], tree["not_run"]) == (2, 2, 0, 0)
    assert (tree["causes"], tree["headline"], tree["judges"]) == ({}, None, [])
    for number, line in enumerate(lines):
        place = out / "geneval" / f"{number:05d}"
        assert json.loads((place / "metadata.jsonl").read_text(encoding="utf-8")) == line
        assert Image.open(place / "samples/00000.png").format == "PNG"
    assert (out / "report.html").read_text(encoding="utf-8").count("data:image/png") == 2


def knowgen(
    data: Path, out: Path, judge_url: str, painter: ImageServer, *options: str
) -> list[str]:
    return eval_command(
        "knowgen",
        *("--data", str(data), "--agent", "none", "--out", str(out), *options),
        judge_url=judge_url,
        images_url=painter.base_url("openai"),
    )


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
