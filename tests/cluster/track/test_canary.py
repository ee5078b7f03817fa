"""The canary set: a baseline once, drift against it, an alarm, and failures that are no numbers."""

import json
import logging
from pathlib import Path

import pytest

from cluster.openers import Keys
from cluster.track.canary import Canary, CanaryRow, load_canary, open_canary
from core.config import build_config
from core.errors import DataError
from envs.nano.canary import NUM_ROWS, canary_rows
from tests.builders import make_image_ref, png_bytes
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge, image_verdict

ROWS = [
    CanaryRow(prompt=f"row {n}", image=make_image_ref("i"), ground_truth=make_image_ref("t"))
    for n in range(4)
]


def make_canary(judge: FakeJudge, folder: Path, rows: list[CanaryRow] | None = None) -> Canary:
    return Canary(
        judge,
        ROWS if rows is None else rows,
        na_rule="paper",
        threshold=0.1,
        baseline_path=folder / "canary.json",
    )


def judge_of(grade: float) -> FakeJudge:
    return FakeJudge(grade_image=lambda task, image: image_verdict(grade))


async def test_a_steady_judge_shows_no_drift_also_after_a_restart(tmp_path: Path) -> None:
    first = await make_canary(judge_of(0.5), tmp_path).ask()
    again = await make_canary(judge_of(0.5), tmp_path).ask()

    assert (
        first
        == again
        == {
            "canary/failed": 0.0,
            "canary/score": pytest.approx(0.5),
            "canary/drift": 0.0,
            "canary/rows_changed": 0.0,
            "canary/alarm": 0.0,
        }
    )


async def test_a_judge_that_drifts_is_seen_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await make_canary(judge_of(0.5), tmp_path).ask()
    lenient = FakeJudge(
        grade_image=lambda task, image: image_verdict(1.0 if task.ordinal < 2 else 0.5)
    )
    with caplog.at_level(logging.WARNING, logger="cluster.track.canary"):
        metrics = await make_canary(lenient, tmp_path).ask()

    assert metrics["canary/drift"] == pytest.approx(0.25)
    assert (metrics["canary/rows_changed"], metrics["canary/alarm"]) == (0.5, 1.0)
    assert "drifts: the canary set scores +0.250" in caplog.text


async def test_a_failed_row_is_counted_and_moves_no_mean(tmp_path: Path) -> None:
    await make_canary(judge_of(0.5), tmp_path).ask()
    broken = FakeJudge(
        grade_image=lambda task, image: image_verdict(0.5), fail_times={"canary-0": 9}
    )
    metrics = await make_canary(broken, tmp_path).ask()
    assert (metrics["canary/failed"], metrics["canary/drift"]) == (1.0, 0.0)

    down = FakeJudge(fail_times={f"canary-{n}": 9 for n in range(4)})
    assert await make_canary(down, tmp_path).ask() == {"canary/failed": 4.0}


async def test_a_row_that_failed_at_first_gets_its_baseline_later(tmp_path: Path) -> None:
    down = FakeJudge(fail_times={f"canary-{n}": 9 for n in range(4)})
    assert await make_canary(down, tmp_path).ask() == {"canary/failed": 4.0}
    await make_canary(judge_of(0.5), tmp_path).ask()
    assert (await make_canary(judge_of(1.0), tmp_path).ask())["canary/drift"] == 0.5


async def test_other_rows_start_a_new_baseline(tmp_path: Path) -> None:
    await make_canary(judge_of(0.0), tmp_path).ask()
    metrics = await make_canary(judge_of(1.0), tmp_path, rows=ROWS[:2]).ask()
    assert metrics["canary/drift"] == 0.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scores": 1, "asked_of": 2}'])
async def test_a_baseline_that_cannot_be_read_is_made_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "canary.json").write_text(text)
    assert (await make_canary(judge_of(1.0), tmp_path).ask())["canary/drift"] == 0.0
    assert (await make_canary(judge_of(0.5), tmp_path).ask())["canary/drift"] == -0.5


async def test_the_nano_rows_are_fixed_and_get_different_grades(tmp_path: Path) -> None:
    assert canary_rows(MemoryImageStore()) == canary_rows(MemoryImageStore())
    config = build_config({"judge": {"canary_every": 5}})
    canary = open_canary(config, tmp_path, Keys())
    assert canary is not None
    metrics = await canary.ask()
    scores = json.loads((tmp_path / "canary.json").read_text())["scores"]

    assert len(scores) == NUM_ROWS
    assert 1.0 in scores, "a right picture"
    assert min(scores) < 0.7, "another flag"
    assert metrics["canary/failed"] == 0.0
    assert open_canary(build_config({}), tmp_path, Keys()) is None


def test_rows_of_the_user_are_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes())
    path = tmp_path / "canary.json"
    row = {"prompt": "p", "image": "a.png", "ground_truth": "a.png"}
    path.write_text(json.dumps([row]))
    (loaded,) = load_canary(path, store=MemoryImageStore())
    assert (loaded.prompt, loaded.image) == ("p", loaded.ground_truth)
    for wrong, said in (
        ([], "no rows"),
        ([row, {"prompt": "p", "image": "a.png"}], r"row 1\.ground_truth: Field required"),
        ([row | {"image": "b.png"}], "row 0, image: b.png cannot be read"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=said):
            load_canary(path, store=MemoryImageStore())
