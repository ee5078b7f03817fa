"""A chat format that can process images, for the tests that show some."""

from pathlib import Path

import pytest

from envs.chat import ChatFormat
from tests.tiny_model import build_tiny_policy


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    folder: Path = tmp_path_factory.mktemp("tiny") / "policy"
    return ChatFormat.load(build_tiny_policy(folder))
