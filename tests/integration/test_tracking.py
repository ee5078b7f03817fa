"""Offline W&B runs, read back by W&B's own reader: metrics, pictures, resumes, and no secret."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from cluster.run import train_run
from cluster.track.tracking import TrackedPicture, TrackedTable, Tracker
from core.config import build_config, load_config
from core.errors import ConfigError
from tests.documented_metrics import ALWAYS, MAY_BE_ABSENT, SOMETIMES, names_of
from tests.fakes.wandb_server import WandbServer, sync

pytestmark = pytest.mark.integration

SECRETS = {
    name: f"planted-{name.lower()}-7f3a"
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "SERPER_API_KEY", "HF_TOKEN", "MY_PASSWORD")
}


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Secrets in the environment; what W&B keeps outside the run's folder is under tmp_path."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)


def leaks(data: bytes) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret.encode() in data]


def heldout_table(server: WandbServer) -> list[list[Any]]:
    """Rows of the last one."""
    rows: list[list[Any]] = json.loads(server.files["artifact/heldout/table.table.json"])["data"]
    return rows


def picture_in(cell: Mapping[str, Any], server: WandbServer) -> Image.Image:
    return Image.open(io.BytesIO(server.files[f"artifact/{cell['path']}"]))


def offline_runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*"))


def test_online_without_a_key_is_refused_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    config = build_config({"run": {"root": str(tmp_path)}, "wandb": {"mode": "online"}})

    with pytest.raises(ConfigError, match=r"wandb\.mode: 'online' .*No API key.*WANDB_API_KEY"):
        Tracker(config)


def test_a_resumed_run_goes_on_under_its_id_with_pictures_and_a_histogram(tmp_path: Path) -> None:
    config = build_config({"run": {"root": str(tmp_path), "name": "tracked"}})
    tracker = Tracker(config)
    tracker.log({"reward/mean": 0.25, "staleness/of_0": 3.0, "staleness/of_2": 1.0}, step=1)
    picture = Image.new("RGB", (8, 8), "red")
    table = TrackedTable(columns=("prompt", "reward", "picture"), rows=(("draw", 0.5, picture),))
    shown = [TrackedPicture(image=picture, caption="before")]
    tracker.log_evaluation({"reward": 0.5}, step=2, pictures=shown, table=table)
    tracker.close()
    resumed = Tracker(config)
    resumed.log({"reward/mean": 0.75}, step=3)
    resumed.close()

    runs = offline_runs(config.run_dir)
    assert len({run.name.rpartition("-")[2] for run in runs}) == 1
    server = sync(runs, home=tmp_path / "home")
    by_step = {row["train/step"]: row for row in server.history}
    assert by_step[1]["reward/mean"] == 0.25
    assert by_step[1]["staleness/histogram"]["values"] == [3, 0, 1]
    assert by_step[2]["heldout/reward"] == 0.5
    assert by_step[2]["heldout/pictures"]["captions"] == ["before"]
    assert by_step[3]["reward/mean"] == 0.75
    (row,) = heldout_table(server)
    assert row[:2] == ["draw", 0.5]
    assert picture_in(row[2], server).size == (8, 8)


def test_steps_that_come_again_are_kept_and_drawn_over_their_step(tmp_path: Path) -> None:
    """After a lost learner, and in a start from an older checkpoint."""
    config = build_config({"run": {"root": str(tmp_path), "name": "repeated"}})
    for steps in ([1, 2, 3, 2, 3, 4], [2, 3]):
        tracker = Tracker(config)
        for step in steps:
            tracker.log({"reward/mean": step / 10}, step=step)
        tracker.close()

    server = sync(offline_runs(config.run_dir), home=tmp_path / "home")
    assert [row["train/step"] for row in server.history] == [1, 2, 3, 2, 3, 4, 2, 3]
    assert [row["reward/mean"] for row in server.history] == [
        *(0.1, 0.2, 0.3, 0.2, 0.3, 0.4, 0.2, 0.3)
    ]
    numbers = [row["_step"] for row in server.history]
    assert numbers == sorted(set(numbers)), "W&B drops a row that is not above the last"
    assert any(b"train/step" in body and b"upsertBucket" in body for body in server.bodies)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_whole_run_has_every_metric_of_the_page_its_pictures_and_no_secret(
    tmp_path: Path,
) -> None:
    config = load_config(
        "nano",
        overrides=[
            "run.name=promised",
            f"run.root={tmp_path / 'runs'}",
            "rollout.kv_cache_gib=0.2",
            "train.steps=2",
            "train.groups_per_step=4",
            "train.group_size=4",
            "eval.num_tasks=4",
            "learner.kl_coef=0.01",
            "judge.canary_every=1",
            *(f"reward.{part}_weight=0.1" for part in ("gate", "format", "budget")),
        ],
    )
    train_run(config, resume=False, console=Console(file=io.StringIO()))
    server = sync(offline_runs(config.run_dir), home=tmp_path / "home")

    seen = {name for row in server.history for name in row}
    wanted = {*names_of(ALWAYS), *names_of(SOMETIMES), "staleness/histogram", "heldout/reward"}
    assert wanted - seen <= MAY_BE_ABSENT
    shown = [row[-1] for row in heldout_table(server) if row[-1]]
    assert shown
    for cell in shown:
        picture_in(cell, server).verify()

    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in kept)
    assert {path.name: leaks(path.read_bytes()) for path in kept if leaks(path.read_bytes())} == {}
    assert [leaks(body) for body in server.bodies if leaks(body)] == []
