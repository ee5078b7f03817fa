"""Bytes over a link of a set rate: two network namespaces, a veth pair and tc's token bucket.

Needs root on Linux. `shaped_link` raises OSError where it cannot be set up.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESSES = ("10.231.7.1", "10.231.7.2")
PORT = 7231

_RECEIVE = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
link, buffer = server.accept()[0], bytearray(2**20)
while link.recv_into(buffer): pass
link.sendall(b"!")
"""
_SEND = """
import socket, sys, time
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
left, data = int(sys.argv[3]), bytes(2**20)
started = time.perf_counter()
while left > 0:
    left -= link.send(data[:left])
link.shutdown(socket.SHUT_WR)
link.recv(1)
print(time.perf_counter() - started)
"""


class Link:
    def __init__(self, names: tuple[str, str]) -> None:
        self._names = names

    def seconds(self, num_bytes: int) -> float:
        """How long that many bytes take over one TCP connection, until all have arrived."""
        target = (ADDRESSES[1], str(PORT))
        receiver = subprocess.Popen(
            [*_inside(self._names[1]), sys.executable, "-c", _RECEIVE, *target],
            stdout=subprocess.PIPE,
        )
        assert receiver.stdout is not None
        receiver.stdout.readline()
        sender = [*_inside(self._names[0]), sys.executable, "-c", _SEND, *target, str(num_bytes)]
        seconds = subprocess.run(sender, check=True, capture_output=True, text=True).stdout
        receiver.wait()
        return float(seconds)


@contextmanager
def shaped_link(rate: str = "1gbit") -> Iterator[Link]:
    """Both directions at `rate`, in tc's notation."""
    names = (f"gsa{os.getpid()}", f"gsb{os.getpid()}")
    ends = ("gsv0", "gsv1")
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        # Made inside a namespace, so that the machine's own names are left alone.
        _run(*_inside(names[0]), "ip", "link", "add", ends[0], "type", "veth", "peer", "name",
             ends[1], "netns", names[1])  # fmt: skip
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            _run(*_inside(name), "ip", "addr", "add", f"{address}/24", "dev", end)
            _run(*_inside(name), "ip", "link", "set", end, "up")
            _run(*_inside(name), "tc", "qdisc", "add", "dev", end, "root", "tbf", "rate", rate,
                 "burst", "512kb", "latency", "50ms")  # fmt: skip
        yield Link(names)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _inside(name: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", name)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise OSError(f"{' '.join(command)}: {error.stderr.strip()}") from error
