"""No network but loopback, and the chat format of a tiny model with the published tokens."""

import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.chat import ChatFormat
from tests.tiny_model import build_tiny_policy


@pytest.fixture(scope="session")
def tiny_policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")


@pytest.fixture(scope="session")
def chat(tiny_policy_folder: Path) -> ChatFormat:
    return ChatFormat.load(tiny_policy_folder)


class SocketGuard:
    """Refuses, for this process and below every library, whatever would leave this machine."""

    def __init__(self) -> None:
        self.is_on = False
        sys.addaudithook(self)  # stays for ever, so it has a switch

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
            self._check(str(args[1][0]))
        elif event == "socket.getaddrinfo":
            self._check(str(args[0] or "localhost"))

    def _check(self, host: str) -> None:
        try:
            is_near = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        except ValueError:
            is_near = host == "localhost"
        if not is_near:
            raise PermissionError(f"a test may only reach loopback, not {host}")


_SOCKET_GUARD = SocketGuard()


@pytest.fixture(autouse=True)
def _only_loopback() -> Iterator[None]:
    _SOCKET_GUARD.is_on = True
    yield
    _SOCKET_GUARD.is_on = False
