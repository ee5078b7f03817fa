"""One GRPO update of a 282 M policy on a long-tailed batch with images: ours, and other ways.

    python -m benchmarks.learner --json
    python -m benchmarks.learner --json --quick                  a quarter of the lengths
    python -m benchmarks.learner --json --only ours,padded
    python -m benchmarks.learner --json --only ours,ours_alone --lengths 256,256,256,256
    python -m benchmarks.learner --json --keep-activations       more memory for less work

Every way (benchmarks/learner_ways.py) runs in a process of its own, in turn, on all cores: its peak
memory is its own. A way that pads runs at the largest micro-batch that fits in memory, TRL at the
one that is fastest on short rows. All padded rows are equally long, so `--max-rows` of them are
timed and the time is scaled (`timed_share`). Either every way computes its layers a second time in
the backward pass, which is TRL's default, or none does.

    tokens_per_s     tokens of the trajectories: padding and a prompt's second time do not count
    state_gib        of the process between two updates: weights, optimizer state, the program
    over_state_gib   what the update took on top of it: gradients, activations, logits
    share_of_trl     our memory as a share of TRL's, where both ran
    gflops           the work that an update cannot do without, per second
    matmul_fraction  that as a share of the fastest matrix product of the same run
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.learner_batch import LENGTHS, build_policy
from benchmarks.learner_ways import GIB, measure, one_by_one, open_work, ours, padded
from benchmarks.machine import machine
from learners.flat import DTYPES

WAYS = ("ours", "ours_no_share", "ours_alone", "padded", "one_by_one", "trl")
QUICK, SHORT = 4, 16
"""What lengths are divided by for --quick, and where TRL's micro-batches are compared."""
SPARE_GIB = 2.0
"""Memory of the machine that a way may not have."""
MATMULS = ((2048, 2048, 2048), (4096, 1024, 4096), (512, 1024, 151_936))
"""(rows, inner, columns)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--quick", action="store_true", help="a quarter of the lengths")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="of a group, tokens")
    parser.add_argument("--keep-activations", action="store_true", help="compute no layer twice")
    parser.add_argument("--only", default=",".join(WAYS), help="some of the ways")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--max-rows", type=int, default=1, help="padded rows that are timed")
    parser.add_argument("--micro-batches", default="8,4,2,1", help="of ways that pad")
    parser.add_argument("--trl-python", default=sys.executable, help="one that has TRL")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--micro-batch", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--divide", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="keep the policy here for the next run")
    arguments = parser.parse_args()
    arguments.divide = arguments.divide or (QUICK if arguments.quick else 1)
    if arguments.way:
        print(json.dumps(run_way(arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="learner-") as name:
        arguments.folder = arguments.folder or Path(name)
        if not (arguments.folder / "policy").is_dir():
            build_policy(arguments.folder / "policy")
        result = compare(arguments)
    if not arguments.json:
        print(json.dumps(result, indent=2))
    print(json.dumps(result))


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    peak = matmul_gflops(arguments.dtype)
    chosen = arguments.only.split(",")
    lengths = lengths_of(arguments)
    result: dict[str, Any] = {
        "benchmark": "learner",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "dtype": arguments.dtype,
        "recompute": not arguments.keep_activations,
        "lengths": lengths,
        "matmul_gflops": round(peak, 1),
    }
    for way in WAYS:
        if way not in chosen:
            continue
        found = trl_at_its_best(arguments) if way == "trl" else largest(way, arguments)
        if "gflops" in found:
            found["matmul_fraction"] = round(found["gflops"] / peak, 3)
        result[way] = found
        print(f"{way}: {found}", file=sys.stderr)
    if "peak_rss_gib" in result.get("ours", ()) and "peak_rss_gib" in result.get("trl", ()):
        result["share_of_trl"] = {
            name: round(result["ours"][name] / result["trl"][name], 2)
            for name in ("peak_rss_gib", "over_state_gib")
        }
    return result


def largest(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """At the largest micro-batch that fits; ways that do not pad have none."""
    for micro_batch in micro_batches(arguments) if way == "padded" else [1]:
        found = in_a_process(way, arguments, micro_batch=micro_batch)
        if "error" not in found:
            return found
    return found


def trl_at_its_best(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fastest micro-batch on short rows that fits."""
    speeds: dict[int, float] = {}
    for micro_batch in micro_batches(arguments):
        found = in_a_process("trl", arguments, micro_batch=micro_batch, divide=SHORT)
        if "error" not in found:
            speeds[micro_batch] = found["tokens_per_s"]
    for micro_batch in sorted(speeds, key=lambda size: -speeds[size]):
        found = in_a_process("trl", arguments, micro_batch=micro_batch)
        if "error" not in found:
            break
    return found | {"short_tokens_per_s": speeds}


def in_a_process(
    way: str, arguments: argparse.Namespace, *, micro_batch: int, divide: int | None = None
) -> dict[str, Any]:
    """What the way says of itself, or {"error": why it could not}."""
    command = [
        arguments.trl_python if way == "trl" else sys.executable,
        *("-m", "benchmarks.learner", "--way", way, "--folder", str(arguments.folder)),
        *("--micro-batch", str(micro_batch), "--max-rows", str(arguments.max_rows)),
        *("--dtype", arguments.dtype, "--divide", str(divide or arguments.divide)),
        *("--lengths", arguments.lengths),
        *(["--keep-activations"] if arguments.keep_activations else []),
    ]
    env = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count()), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return {"error": reason[:300], "micro_batch": micro_batch}


def run_way(arguments: argparse.Namespace) -> dict[str, Any]:
    """In the way's own process."""
    limit = int(available_gib() * GIB - SPARE_GIB * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    work = open_work(
        arguments.folder,
        dtype=arguments.dtype,
        micro_batch=arguments.micro_batch,
        max_rows=arguments.max_rows,
        share_prefix=arguments.way == "ours",
        recompute=not arguments.keep_activations,
        alone=arguments.way == "ours_alone",
    )
    if arguments.way == "trl":
        from benchmarks.learner_trl import trl

        update = trl(work)
    else:
        update = {"padded": padded, "one_by_one": one_by_one}.get(arguments.way, ours)(work)
    found = measure(update, work, lengths_of(arguments))
    if arguments.way in ("padded", "trl"):
        found["micro_batch"] = arguments.micro_batch
    return found


def micro_batches(arguments: argparse.Namespace) -> list[int]:
    return [int(size) for size in arguments.micro_batches.split(",")]


def lengths_of(arguments: argparse.Namespace) -> list[int]:
    return [int(length) // arguments.divide for length in arguments.lengths.split(",")]


def available_gib() -> float:
    with open("/proc/meminfo", encoding="ascii") as file:
        found = next(line for line in file if line.startswith("MemAvailable"))
    return int(found.split()[1]) * 1024 / GIB


def matmul_gflops(dtype: str) -> float:
    """The fastest of a few matrix products of the model's shapes, by the best of several tries."""
    best = 0.0
    for rows, inner, columns in MATMULS:
        left = torch.randn(rows, inner).to(DTYPES[dtype])
        right = torch.randn(columns, inner).to(DTYPES[dtype])
        for _ in range(6):
            started = time.perf_counter()
            torch.nn.functional.linear(left, right)
            seconds = time.perf_counter() - started
            best = max(best, 2 * rows * inner * columns / seconds / 1e9)
    return best


if __name__ == "__main__":
    main()
