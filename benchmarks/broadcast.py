"""How fast new weights reach the rollout workers of one node, and what a delta saves.

    python -m benchmarks.broadcast --json

A process in the learner's place publishes about `--gib` of bfloat16 weights, layers of the shapes
of Qwen3-VL-8B; four worker processes copy them into parameters of their own. All buffers are warm:
the first rounds are not counted. A GB/s is 1e9 bytes delivered to all workers together, per second.

    dense_gb_per_s          state dict to parameters: packed, stored, mapped, copied
    dense_checked_gb_per_s  the same, with the checksums of the sender and of every worker
    memcpy_gb_per_s         the workers copy as much inside their own memory, all at once
    by_hand_gb_per_s        half of the bytes without Ray: the sender copies them into one shared
                            file and the workers out of it; what the pattern can reach here
    naive_gb_per_s          ray.put of the state dict with Ray's defaults, a quarter of the bytes
    engine_apply_s          vLLM takes the nano policy in, between two steps (`engine_mib`)
    delta_*, dense_s        one sender, one receiver, after an AdamW step of 1e-6 on weights of
                            standard deviation 0.05; bit-equal or the run fails
    link_1gbit              the same with the bytes over a link shaped to 1 Gbit/s
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import ray
import torch

from benchmarks.machine import machine
from benchmarks.shaped_link import shaped_link
from core.config import default_environment, load_config
from core.records import WeightUpdate
from learners.publish import WeightPublisher
from learners.receive import WeightReceiver, tensors

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]
ROUNDS, WARM_UP = 13, 8
"""Ray's object store takes several rounds until it hands out only memory that was used before."""
HIDDEN, KEYS, INNER, HEAD = 4096, 1024, 12288, 128
LAYER: Shapes = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "self_attn.q_norm": (HEAD,),
    "self_attn.k_norm": (HEAD,),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
GBIT_BYTES = 125_000_000


class Worker:
    """Has parameters of its own, as an engine has."""

    def __init__(self, shapes: Shapes) -> None:
        sizes = [2 * int(np.prod(shape)) for shape in shapes.values()]
        self._flat = np.zeros(sum(sizes), np.uint8)
        parts = np.split(self._flat, np.cumsum(sizes)[:-1])
        self._parameters = dict(zip(shapes, parts, strict=True))
        self._receiver = WeightReceiver()

    def take(self, update: WeightUpdate, refs: list[Any], check: bool) -> None:
        payload = ray.get(refs)
        views = self._receiver.receive(update, payload) if check else tensors(update, payload)
        self._copy(views)

    def take_state(self, refs: list[Any]) -> None:
        self._copy(ray.get(refs[0]).items())

    def take_file(self, path: str) -> None:
        flat = np.memmap(path, np.uint8, "r")
        np.copyto(self._flat[: flat.size], flat)

    def memcpy(self) -> None:
        """As many bytes as there are parameters."""
        half = self._flat.size // 2
        one, other = self._flat[:half], self._flat[-half:]
        np.copyto(one, other)
        np.copyto(other, one)

    def bits(self) -> int:
        """Of all parameters; a sum that any one of them moves."""
        return int(self._flat.view(np.int16).sum(dtype=np.int64))

    def _copy(self, views: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in views:
            np.copyto(self._parameters[name], bytes_of(tensor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--gib", type=float, default=2e9 / 2**30, help="of bfloat16 weights")
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    layer_bytes = 2 * sum(int(np.prod(shape)) for shape in LAYER.values())
    state = make_state(max(1, round(arguments.gib * 2**30 / layer_bytes)))
    result: dict[str, Any] = {
        "benchmark": "broadcast",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "bytes": size_of(state),
        "workers": arguments.workers,
        **on_one_node(state, num_workers=arguments.workers),
    }
    result |= delta_after_a_step(state)
    del state
    result |= engine_apply()
    if not arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(json.dumps(result))


def make_state(num_layers: int) -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        f"layers.{n}.{name}.weight": (torch.randn(shape, generator=generator) * 0.05).bfloat16()
        for n in range(num_layers)
        for name, shape in LAYER.items()
    }


def bytes_of(tensor: torch.Tensor) -> np.ndarray:
    found: np.ndarray = tensor.reshape(-1).view(torch.uint8).numpy()
    return found


def sum_of_bits(state: State) -> int:
    return sum(int(tensor.view(torch.int16).sum(dtype=torch.int64)) for tensor in state.values())


def size_of(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.values())


def on_one_node(state: State, *, num_workers: int) -> dict[str, float]:
    """The figures that need worker processes."""
    ray.init(
        num_cpus=num_workers,
        include_dashboard=False,
        object_store_memory=int(2.5 * size_of(state)) + 2**28,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    try:
        shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        actor: Any = ray.remote(Worker)
        workers = [actor.options(num_cpus=0.5).remote(shapes) for _ in range(num_workers)]
        total = size_of(state) * num_workers
        publisher = WeightPublisher(dtype="bfloat16", store=ray.put)
        version = 0

        def dense(check: bool) -> None:
            nonlocal version
            version += 1
            update, refs = publisher.publish(state, version=version)
            ray.get([worker.take.remote(update, list(refs), check) for worker in workers])

        def memcpy() -> None:
            ray.get([worker.memcpy.remote() for worker in workers])

        def rate(work: Callable[[], Any]) -> float:
            return total / seconds_of(work) / 1e9

        figures = {"memcpy_gb_per_s": rate(memcpy)}
        with mock.patch("learners.publish.checksum", return_value=""):
            figures["dense_gb_per_s"] = rate(lambda: dense(check=False))
        figures["dense_checked_gb_per_s"] = rate(lambda: dense(check=True))
        sums = set(ray.get([worker.bits.remote() for worker in workers]))
        assert sums == {sum_of_bits(state)}, "a worker has other weights than were sent"
        names = list(state)
        half = {name: state[name] for name in names[: len(names) // 2]}
        with shared_file(size_of(half)) as (path, flat):

            def by_hand() -> None:
                write(half, flat)
                ray.get([worker.take_file.remote(path) for worker in workers])

            by_hand_s = seconds_of(by_hand)
        figures["by_hand_gb_per_s"] = size_of(half) * num_workers / by_hand_s / 1e9
        part = {name: state[name] for name in names[: max(1, len(names) // 4)]}

        def naive() -> None:
            refs = [ray.put(part)]
            ray.get([worker.take_state.remote(refs) for worker in workers])

        naive_s = seconds_of(naive, rounds=3, warm_up=1)
        figures["naive_gb_per_s"] = size_of(part) * num_workers / naive_s / 1e9
        for name in ("dense", "dense_checked", "by_hand"):
            figures[f"{name}_of_memcpy"] = figures[f"{name}_gb_per_s"] / figures["memcpy_gb_per_s"]
        figures["dense_over_naive"] = figures["dense_gb_per_s"] / figures["naive_gb_per_s"]
        return {name: round(value, 3) for name, value in figures.items()}
    finally:
        ray.shutdown()


@contextmanager
def shared_file(size: int) -> Iterator[tuple[str, np.ndarray]]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(size)
        yield file.name, np.memmap(file.name, np.uint8, "r+")


def write(state: State, flat: np.ndarray) -> None:
    """All tensors end to end, on as many threads as there are cores."""
    parts = np.split(flat, np.cumsum([tensor.nbytes for tensor in state.values()])[:-1])
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(np.copyto, parts, map(bytes_of, state.values())))


def seconds_of(work: Callable[[], Any], *, rounds: int = ROUNDS, warm_up: int = WARM_UP) -> float:
    """The median of the rounds after the warm-up."""
    measured = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured[warm_up:])


def delta_after_a_step(state: State) -> dict[str, Any]:
    """Both ways from one sender to one receiver; `state` is stepped in place between them."""
    publisher = WeightPublisher(
        dtype="bfloat16", mode="delta", snapshot_every=2**30, store=np.asarray
    )
    receiver = WeightReceiver()
    receiver.receive(*publisher.publish(state, version=0))
    adamw_step(state, seed=0)
    receiver.receive(*publisher.publish(state, version=1))  # from here on, pages are warm
    adamw_step(state, seed=1)

    started = time.perf_counter()
    update, payload = publisher.publish(state, version=2)
    received = receiver.receive(update, payload)
    delta_s = time.perf_counter() - started
    assert all(torch.equal(tensor, state[name]) for name, tensor in received), "not bit-equal"
    delta_bytes = sum(part.nbytes for part in payload)

    publisher.forget()
    started = time.perf_counter()
    receiver.receive(*publisher.publish(state, version=3))
    dense_s = time.perf_counter() - started
    dense_bytes = size_of(state)
    return {
        "delta_bytes_fraction": round(delta_bytes / dense_bytes, 5),
        "delta_s": round(delta_s, 3),
        "dense_s": round(dense_s, 3),
        "bit_equal": True,
        "link_1gbit": over_a_link(dense=(dense_bytes, dense_s), delta=(delta_bytes, delta_s)),
    }


def adamw_step(state: State, *, seed: int) -> None:
    """One real step on float32 masters, tensor by tensor, so that memory stays small."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in state.items():
        master = torch.nn.Parameter(weight.float())
        master.grad = torch.randn(weight.shape, generator=generator) * 1e-3
        torch.optim.AdamW([master], lr=1e-6, weight_decay=0.0, fused=True).step()
        state[name].copy_(master.detach())


def over_a_link(**ways: tuple[int, float]) -> dict[str, Any]:
    """Seconds of each way (bytes, seconds of sender and receiver) with the bytes over a link."""
    try:
        with shaped_link("1gbit") as link:
            took = {name: link.seconds(size) + host_s for name, (size, host_s) in ways.items()}
            how = "tc tbf on a veth pair"
    except OSError as error:
        took = {name: size / GBIT_BYTES + host_s for name, (size, host_s) in ways.items()}
        how = f"computed from the bytes, not measured: {error}"
    return {"how": how, **{f"{name}_s": round(seconds, 2) for name, seconds in took.items()}}


def engine_apply() -> dict[str, Any]:
    """vLLM with the nano policy; {} when it has not been made yet (`gensearcher demo` does)."""
    config = load_config("nano", overrides=["rollout.kv_cache_gib=0.1"])
    if not Path(config.policy.path).is_dir():
        return {}
    from actors.runtime_env import worker_env

    for name, value in worker_env(config).items():
        default_environment(name, value)
    from transformers import Qwen3VLForConditionalGeneration

    from actors.vllm_engine import VllmEngine
    from envs.images import FileImageStore

    model = Qwen3VLForConditionalGeneration.from_pretrained(config.policy.path)
    publisher = WeightPublisher(dtype=config.policy.dtype)
    engine = VllmEngine(config, images=FileImageStore(Path("/nonexistent")), stop_ids=[0])

    async def apply() -> float:
        took = []
        for version in range(1, ROUNDS + 1):
            update, payload = publisher.publish(model.state_dict(), version=version)
            started = time.perf_counter()
            await engine.apply_weights([update], [payload])
            took.append(time.perf_counter() - started)
        await engine.aclose()
        return statistics.median(took[WARM_UP:])

    num_bytes = sum(np.prod(t.shape) for t in model.state_dict().values()) * 4
    return {
        "engine_apply_s": round(asyncio.run(apply()), 4),
        "engine_mib": round(float(num_bytes) / 2**20, 1),
    }


if __name__ == "__main__":
    main()
