"""Peak memory of a run on this machine: the sum of PSS over its whole process tree.

PSS counts a page that several processes share in equal parts, so the sum counts the object
store's shared memory once. Linux only; elsewhere the peak stays None.
"""

import threading
from pathlib import Path
from types import TracebackType

import psutil

SAMPLE_EVERY_S = 2.0
_GIB = 1024**3


class PeakMemory:
    """Samples while the `with` block lasts.

    Example:
        with PeakMemory() as memory:
            run()
        memory.peak_gib
    """

    def __init__(self, *, every_s: float = SAMPLE_EVERY_S) -> None:
        self._every_s = every_s
        self._peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    @property
    def peak_gib(self) -> float | None:
        """None when no sample could be read."""
        return round(self._peak_bytes / _GIB, 2) if self._peak_bytes else None

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self._peak_bytes = max(self._peak_bytes, tree_pss_bytes())
            if self._stop.wait(self._every_s):
                return


def tree_pss_bytes() -> int:
    """PSS of this process and all its descendants, in bytes; 0 where /proc does not tell."""
    this = psutil.Process()
    return sum(_pss_bytes(process.pid) for process in [this, *this.children(recursive=True)])


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0  # the process has just ended, or this is not Linux
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
