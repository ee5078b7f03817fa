"""What this machine has: measured once, so that the doctor's checks stay pure.

Leaves: a `Machine`. Nothing here fails for what is missing; absence is a value.
"""

import math
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

GIB = 2**30
REQUIREMENTS = Path(__file__).resolve().parent.parent.parent / "requirements"
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    python: tuple[int, int]
    locked: Mapping[str, str]
    """Package -> version of the lock that fits this machine; empty when there is no lock."""
    installed: Mapping[str, str]
    """Package -> version, of the locked ones that are installed."""
    has_compiler: bool
    gpu_gib: tuple[float, ...]
    memory_gib: float
    """All of it, or the container's limit."""
    free_disk_gib: float
    """Where the run's folder will be."""


def inspect_machine(run_root: Path) -> Machine:
    """Look at the machine; `run_root` need not exist yet."""
    major, minor, _ = platform.python_version_tuple()
    gpu_gib = _gpu_gib()
    locked = read_lock(REQUIREMENTS / ("gpu.txt" if _version_of("vllm") else "cpu.txt"))
    found = {name: _version_of(name) for name in locked}
    return Machine(
        python=(int(major), int(minor)),
        locked=locked,
        installed={name: version for name, version in found.items() if version},
        has_compiler=shutil.which("g++") is not None,
        gpu_gib=gpu_gib,
        memory_gib=_memory_gib(),
        free_disk_gib=shutil.disk_usage(_existing(run_root)).free / GIB,
    )


def read_lock(path: Path) -> dict[str, str]:
    """Pinned versions of a lock file; empty when it is not there."""
    if not path.is_file():
        return {}
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in path.open())
    return dict(line.split("==", 1) for line in lines if "==" in line)


def _version_of(package: str) -> str | None:
    """The public version, without a build's suffix such as +cpu."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _gpu_gib() -> tuple[float, ...]:
    if shutil.which(_NVIDIA_SMI[0]) is None:
        return ()
    try:
        run = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return ()
    return read_gpu_gib(run.stdout)


def read_gpu_gib(said: str) -> tuple[float, ...]:
    """Of nvidia-smi's lines, in MiB; "[N/A]", of a GPU that shares the host's memory, is believed
    to be enough. A GPU of which it says anything else, e.g. that it needs a reset, is not there."""
    lines = [line.strip() for line in said.splitlines()]
    return tuple(
        math.inf if line == "[N/A]" else float(line) / 1024
        for line in lines
        if line == "[N/A]" or line.isdecimal()
    )


def _memory_gib() -> float:
    total = psutil.virtual_memory().total
    try:
        limit = int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):
        limit = total
    return min(total, limit) / GIB


def _existing(path: Path) -> Path:
    """The nearest folder that exists."""
    path = path.resolve()
    while not path.is_dir():
        path = path.parent
    return path
