"""W&B offline files, read back from disk without W&B's own reader (it has none for offline runs).

The file is a LevelDB log of protobuf records: blocks of 32 KiB, each record in pieces with a
7-byte header (checksum, length, kind); kinds 1 and 4 end a record.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster.tracking import TrackedPicture, TrackedTable, Tracker
from core.config import build_config

pytestmark = pytest.mark.integration

BLOCK = 32 * 1024


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    at, pieces = 7, b""
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        pieces += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield pieces
            pieces = b""


def read_history(path: Path) -> list[dict[str, Any]]:
    """The logged rows of one .wandb file, nested keys joined with a dot."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for payload in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def test_an_offline_run_reads_back_with_pictures_and_goes_on_under_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted-secret-123")
    config = build_config({"run": {"root": str(tmp_path), "name": "tracked"}})
    tracker = Tracker(config)
    tracker.log({"reward/mean": 0.25}, step=1)
    picture = TrackedPicture(image=Image.new("RGB", (8, 8), "red"), caption="before")
    table = TrackedTable(columns=("prompt", "reward"), rows=(("draw", 0.5),))
    tracker.log_evaluation({"reward": 0.5}, step=2, pictures=[picture], table=table)
    tracker.close()
    resumed = Tracker(config)
    resumed.log({"reward/mean": 0.75}, step=3)
    resumed.close()

    files = sorted(config.run_dir.glob("wandb/offline-run-*/*.wandb"))
    assert len({path.name for path in files}) == 1
    rows = [row for path in files for row in read_history(path)]
    by_step = {row["_step"]: row for row in rows}
    assert by_step[1]["reward/mean"] == 0.25
    assert by_step[2]["heldout/reward"] == 0.5
    assert by_step[2]["heldout/pictures.captions"] == ["before"]
    assert by_step[3]["reward/mean"] == 0.75
    assert list(config.run_dir.glob("wandb/*/files/media/images/heldout/*.png"))
    everything = [p.read_bytes() for p in config.run_dir.rglob("*") if p.is_file()]
    assert not any(b"planted-secret-123" in data for data in everything)
