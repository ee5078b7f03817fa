"""The sampler sees memory that a child process takes."""

import subprocess
import sys

from cluster.memory import PeakMemory, tree_pss_bytes


def test_a_childs_memory_counts_and_the_peak_outlives_it() -> None:
    before = tree_pss_bytes()
    code = "import time; data = bytearray(200 << 20); print('ready', flush=True); time.sleep(60)"
    with PeakMemory() as memory:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            during = tree_pss_bytes()
        finally:
            child.kill()
            child.communicate()
    assert during - before > 190 << 20
    assert memory.peak_gib is not None
    assert memory.peak_gib * 1024**3 > before
