"""What a learner on a CPU frees goes back to the machine.

glibc maps a large block by itself and unmaps it when it is freed, but each time that happens it
takes "large" to be more, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). A learner's tensors then lie
in a heap with holes: after one update of a model of 282 M parameters 1.1 GiB of it were free and
still resident.
"""

import ctypes

LARGE_BYTES = 8 * 2**20
"""Smaller ones cost more in page faults than they are worth."""
_M_MMAP_THRESHOLD = -3


def unmap_large_tensors() -> None:
    """Keep glibc's threshold where it is, for this process. Other C libraries have none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
