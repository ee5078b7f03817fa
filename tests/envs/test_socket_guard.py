"""No test of this folder can leave the machine, whatever library it uses."""

import socket

import pytest

from core.errors import ToolError
from envs.http import AiohttpClient


@pytest.mark.parametrize("address", ["192.0.2.1", "93.184.216.34"])
def test_a_socket_cannot_leave_the_machine(address: str) -> None:
    with socket.socket() as sock, pytest.raises(PermissionError, match="only reach loopback"):
        sock.connect((address, 80))
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(PermissionError, match="only reach loopback"),
    ):
        sock.sendto(b"x", (address, 53))


def test_no_name_is_looked_up() -> None:
    with pytest.raises(PermissionError, match=r"not example\.test"):
        socket.create_connection(("example.test", 80), timeout=1)


async def test_our_own_client_cannot_either() -> None:
    http = AiohttpClient()
    with pytest.raises(ToolError):
        await http.request("GET", "http://93.184.216.34/", timeout_s=2, max_bytes=10)
    await http.close()


def test_loopback_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
