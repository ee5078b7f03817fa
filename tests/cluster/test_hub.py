"""Uploads of checkpoints, against a Hub that keeps what it is sent, and one that is down."""

import logging
import shutil
import threading
from pathlib import Path

import pytest

from cluster.hub import HubUploads, hub_uploads
from core.config import build_config
from core.errors import ConfigError


class FakeHub:
    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.events.append(("create", repo_id, private, exist_ok))

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        names = sorted(path.name for path in folder_path.iterdir())
        self.events.append(("upload", repo_id, names, commit_message))


def policy_at(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_policies_are_uploaded_in_order(tmp_path: Path) -> None:
    hub = FakeHub()
    uploads = HubUploads("me/policy", hub, folder=tmp_path / "uploads")
    for step in (20, 40):
        uploads.add(policy_at(tmp_path / str(step)), name=f"step {step}")
    uploads.wait()
    created = ("create", "me/policy", True, True)
    assert hub.events == [
        created,
        ("upload", "me/policy", ["config.json"], "step 20"),
        created,
        ("upload", "me/policy", ["config.json"], "step 40"),
    ]


def test_one_that_waits_outlives_its_checkpoint(tmp_path: Path) -> None:
    """The run drops a checkpoint while an earlier one is still on its way."""
    slow = threading.Event()

    class SlowHub(FakeHub):
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            slow.wait(timeout=60)

    hub = SlowHub()
    uploads = HubUploads("me/policy", hub, folder=tmp_path / "uploads")
    for step in (20, 40):
        policy = policy_at(tmp_path / str(step))
        uploads.add(policy, name=f"step {step}")
        shutil.rmtree(policy)
    slow.set()
    uploads.wait()
    assert hub.events == [
        ("upload", "me/policy", ["config.json"], "step 20"),
        ("upload", "me/policy", ["config.json"], "step 40"),
    ]
    assert not list((tmp_path / "uploads").iterdir())


def test_a_failed_upload_is_a_warning_and_the_next_one_is_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = FakeHub()
    uploads = HubUploads("me/policy", hub, folder=tmp_path / "uploads")
    with caplog.at_level(logging.WARNING):
        uploads.add(tmp_path / "missing", name="step 20")
        uploads.add(policy_at(tmp_path / "40"), name="step 40")
        uploads.wait()
    assert "step 20 was not uploaded to me/policy: " in caplog.text
    assert hub.events[-1] == ("upload", "me/policy", ["config.json"], "step 40")


def test_no_upload_by_default_and_none_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_uploads(build_config({})) as uploads:
        assert uploads is None
    config = build_config({"train": {"push_to_hub": "me/policy"}})
    with pytest.raises(ConfigError, match="HF_TOKEN is not set"), hub_uploads(config):
        pass
