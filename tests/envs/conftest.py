"""The chat format of a tiny model folder with the published Qwen3-VL tokens."""

from pathlib import Path

import pytest

from envs.chat import ChatFormat
from tests.tiny_model import build_tiny_policy


@pytest.fixture(scope="session")
def tiny_policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")


@pytest.fixture(scope="session")
def chat(tiny_policy_folder: Path) -> ChatFormat:
    return ChatFormat.load(tiny_policy_folder)
