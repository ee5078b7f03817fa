"""Locks between the processes that share a store, on byte ranges of one file.

They belong to the open file (Linux's OFD locks): the kernel drops them when a process dies, however
it dies, and two stores in one process exclude each other too. Nothing is ever left to clean up.
"""

import asyncio
import errno
import fcntl
import os
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

_OPENING = 0
_PRESENCE = 1
_FIRST_KEY = 2
FIRST_PAUSE_S = 0.005
MAX_PAUSE_S = 0.1


class StoreLocks:
    """One open lock file. Not to be shared with a forked process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @contextmanager
    def opening(self) -> Iterator[bool]:
        """One process at a time; True when no other process has the store open.

        Afterwards this one has it open, until `close`.
        """
        self._wait(_OPENING)
        try:
            alone = self._try(_PRESENCE, fcntl.F_WRLCK)
            yield alone
            self._try(_PRESENCE, fcntl.F_RDLCK)
        finally:
            self._try(_OPENING, fcntl.F_UNLCK)

    @asynccontextmanager
    async def fetching(self, key: str) -> AsyncIterator[bool]:
        """The right to fetch `key`, over all processes; True when it had to be waited for."""
        place = _FIRST_KEY + int(key[:15], 16)
        pause_s, waited = FIRST_PAUSE_S, False
        while not self._try(place, fcntl.F_WRLCK):
            waited = True
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, 2 * pause_s)
        try:
            yield waited
        finally:
            self._try(place, fcntl.F_UNLCK)

    def close(self) -> None:
        os.close(self._file)

    def _wait(self, place: int) -> None:
        while not self._try(place, fcntl.F_WRLCK):
            time.sleep(FIRST_PAUSE_S)

    def _try(self, place: int, kind: int) -> bool:
        """Lock or unlock one byte; False when another holder is in the way."""
        # struct flock: type, whence, start, length, pid (0 for these locks)
        lock = struct.pack("hhqqixxxx", kind, os.SEEK_SET, place, 1, 0)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True
