"""The sampler sees memory that a child process takes."""

import subprocess
import sys
import time

from cluster.track.memory import PeakMemory, tree_pss_bytes

GIB = 1024**3
BIG = 100 << 20
"""Of the child's 200 MiB: meanwhile other processes of the tests may end."""


def test_a_childs_memory_counts_and_the_peak_outlives_it() -> None:
    before = tree_pss_bytes()
    code = "import time; data = bytearray(200 << 20); print('ready', flush=True); time.sleep(60)"
    with PeakMemory(every_s=0.05) as memory:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            during = tree_pss_bytes()
            give_up_s = time.monotonic() + 120
            while (memory.peak_gib or 0) * GIB < before + BIG and time.monotonic() < give_up_s:
                time.sleep(0.05)
        finally:
            child.kill()
            child.communicate()
    assert during - before > BIG
    assert memory.peak_gib is not None
    assert memory.peak_gib * GIB > before + BIG
