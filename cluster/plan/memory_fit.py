"""Whether the nodes have the memory that a plan adds up; asked before anything is allocated.

`placement.py` packs CPUs and GPUs, which is all that Ray knows of an actor. Here the bytes
of the plan are held against what each node offers. A GPU whose memory is not known is believed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from cluster.plan.plan import Plan
from cluster.plan.rates import Figure
from core.errors import ConfigError

GIB = 2**30
GPU_GIB = {
    **{"T4": 16, "L4": 24, "A10G": 24, "V100": 32, "L40S": 48},
    **{"A100-40G": 40, "A100-80G": 80, "A100": 80, "H100": 96, "H200": 141, "B200": 192},
}
"""By the type that Ray names a node's accelerator; the largest that is sold under the name."""
_TYPE = "accelerator_type:"


def refuse_too_little_memory(plan: Plan, *, nodes: Sequence[Mapping[str, float]]) -> None:
    """`nodes`: Ray's resources of each, e.g. {"memory": 8e9, "GPU": 1, "accelerator_type:L4": 1}.

    Raises ConfigError that names the process, what it needs piece by piece, and what there is.
    """
    largest = max((_host_bytes(node) for node in nodes), default=0.0)
    needs: dict[str, list[Figure]] = defaultdict(list)
    for figure in plan.memory:
        needs[figure.where].append(figure)
    if largest:  # a node that was started without a size is believed
        learners = next(place.count for place in plan.placements if place.role == "learner")
        nodes_of = "the largest node offers" if learners == 1 else f"{learners} such nodes offer"
        _refuse("learner (host)", needs["learner (host)"], learners * largest, f"{nodes_of} Ray")
    known = [size for node in nodes for size in _gpu_gib(node)]
    if known and None not in known:
        most = max(size for size in known if size is not None) * GIB
        for where, figures in needs.items():
            if where.endswith("GPU"):
                _refuse(where, figures, most, "the largest GPU has")


def _refuse(where: str, figures: Sequence[Figure], there: float, whose: str) -> None:
    needed = sum(figure.value for figure in figures)
    if needed > there:
        has = f"{whose} {there / GIB:.1f} GiB"
        pieces = ", ".join(f"{figure.what} {figure.value / GIB:.1f}" for figure in figures)
        smaller = (
            "serve a smaller model, or lower its kv_cache_gib"
            if where.startswith("served")
            else "train a smaller policy, lower learner.micro_batch_tokens or rollout.kv_cache_gib"
        )
        raise ConfigError(
            f"{where} needs about {needed / GIB:.1f} GiB ({pieces}), {has}; {smaller}, or "
            "add a larger node (gensearcher train --plan shows every figure)"
        )


def _host_bytes(node: Mapping[str, float]) -> float:
    """What Ray may give out of it: the heap and the object store."""
    return node.get("memory", 0.0) + node.get("object_store_memory", 0.0)


def _gpu_gib(node: Mapping[str, float]) -> list[int | None]:
    """One size per type of GPU on the node; None: not known."""
    if not node.get("GPU"):
        return []
    types = [name.removeprefix(_TYPE) for name in node if name.startswith(_TYPE)]
    return [GPU_GIB.get(name) for name in types] or [None]
