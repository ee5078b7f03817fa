"""What a benchmark ran on."""

import os
import platform


def machine() -> str:
    """The processor and how many of it, e.g. "2 x AMD EPYC"."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        models = []
    return f"{os.cpu_count()} x {models[0] if models else name}"
