import json
from collections.abc import Iterator
from pathlib import Path

from cluster.report.run_summary import WallClock, summary_json
from cluster.report.summary import make_heldout, save_heldout
from core.config import build_config
from envs.store.library import Library
from envs.store.store import Store
from envs.toolbox import LocalToolbox
from tests.builders import make_group


def clock(*times: float) -> WallClock:
    ticks: Iterator[float] = iter(times)
    return WallClock(now=lambda: next(ticks))


def test_a_stage_inside_another_counts_for_itself_alone() -> None:
    wall = clock(0.0, 10.0, 14.0, 20.0)

    with wall.stage("train"), wall.stage("evaluate"):
        pass

    assert wall.seconds == {"evaluate": 4.0, "train": 16.0}


def test_a_stage_that_comes_again_adds_up() -> None:
    wall = clock(0.0, 1.0, 5.0, 7.0)

    for _ in range(2):
        with wall.stage("evaluate"):
            pass

    assert wall.seconds == {"evaluate": 3.0}


def test_a_summary_holds_both_sides_their_difference_and_what_made_them(tmp_path: Path) -> None:
    config = build_config({"run": {"root": str(tmp_path), "name": "s", "seed": 3}})
    config.run_dir.mkdir()
    for when, step, scores in (("before", 0, [0.0, 0.5]), ("after", 60, [0.5, 1.0])):
        members = make_group(scores=scores).members
        heldout = make_heldout(members, when=when, step=step, num_showcase=1)
        save_heldout(heldout, config.run_dir)
    rows = [{"step": n, "seconds/rollout": 2.0, "seconds/learn": 1.0} for n in (1, 2)]
    (config.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wall = clock(0.0, 5.0)
    with wall.stage("train"):
        pass

    toolbox = LocalToolbox([], Library(Store(tmp_path / "store")))

    (config.run_dir / "spending.json").write_text('{"judge": 2.0, "tools": 1.0}')

    summary = summary_json(
        config, steps=7, wall=wall, peak_memory_gib=3.5, tools=toolbox.counters()
    )

    assert summary["heldout"]["before"]["reward"]["mean"] == 0.25
    assert summary["heldout"]["after"]["reward"]["mean"] == 0.75
    assert set(summary["heldout"]) == {"before", "after", "delta"}
    assert summary["dollars"] == {
        "judge": 2.0,
        "tools": 1.0,
        "total": 3.0,
        "per_gained_point": 6.0,
    }
    assert summary["stopped"] is None
    assert summary["wall_s"] == {
        "train": 5.0,
        "total": 5.0,
        "train_by_stage": {"rollout": 4.0, "learn": 2.0},
    }
    assert (summary["steps"], summary["seed"], summary["peak_memory_gib"]) == (7, 3, 3.5)
    assert summary["tools"]["calls"] == 0
    assert summary["engines"]["ray"]
    json.dumps(summary)
