"""Where a run's actors go, and whether they fit, before anything starts.

Ray waits for ever for a place that will never be free; here it is one sentence instead. Every
actor of a run is one `Demand`; `refuse_what_cannot_fit` packs them onto the nodes, largest first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.image_models import is_api
from core.config import Config
from core.errors import ConfigError
from core.sections.served import ServedConfig

SERVED_JUDGE = "served judge model"
SERVED_SUMMARISER = "served summariser model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One actor."""

    name: str
    num_cpus: float
    num_gpus: float = 0.0
    setting: str
    """The key of the config that would make it smaller."""


def demands(config: Config) -> tuple[Demand, ...]:
    """Every actor that a training run starts with, and what it asks of Ray."""
    rollout = Demand(
        name="rollout worker",
        num_cpus=config.rollout.num_cpus_per_worker,
        num_gpus=config.rollout.num_gpus_per_worker,
        setting="rollout.num_workers",
    )
    render = Demand(
        name="render actor",
        num_cpus=config.render.num_cpus_per_replica,
        num_gpus=config.render.num_gpus_per_replica,
        setting="render.min_replicas",
    )
    learner = Demand(
        name="learner",
        num_cpus=config.learner.num_cpus,
        num_gpus=learner_gpus(config),
        setting="learner.num_cpus",
    )
    search = Demand(
        name="search actor",
        num_cpus=config.cluster.search_num_cpus,
        setting="cluster.search_num_cpus",
    )
    judge = Demand(
        name="judge actor",
        num_cpus=config.cluster.judge_num_cpus,
        setting="cluster.judge_num_cpus",
    )
    return (
        *_replicas(config),
        *(rollout,) * config.rollout.num_workers,
        *(render,) * (0 if is_api(config.render) else max(1, config.render.min_replicas)),
        *(learner,) * config.learner.num_learners,
        *(search,) * config.cluster.search_actors,
        judge,
    )


def served_models(config: Config) -> Mapping[str, ServedConfig]:
    """Models that the run serves itself, beside the one that draws, by name of their demand."""
    models = {
        SERVED_JUDGE: config.judge.served if config.judge.kind == "served" else None,
        SERVED_SUMMARISER: config.tools.served_summariser,
    }
    return {name: model for name, model in models.items() if model is not None}


def _replicas(config: Config) -> Iterator[Demand]:
    settings = {SERVED_JUDGE: "judge.served", SERVED_SUMMARISER: "tools.summariser.served"}
    for name, model in served_models(config).items():
        demand = Demand(
            name=name,
            num_cpus=model.num_cpus_per_replica,
            num_gpus=model.num_gpus_per_replica,
            setting=f"{settings[name]}.min_replicas",
        )
        yield from (demand,) * max(1, model.min_replicas)


def learner_gpus(config: Config) -> int:
    """The learner never shares a rollout GPU: it has one of its own, or none."""
    return 1 if config.learner.device == "cuda" else 0


def refuse_what_cannot_fit(
    asked: Sequence[Demand], *, nodes: Sequence[Mapping[str, float]]
) -> None:
    """Pack actors onto nodes ({"CPU": 2.0, "GPU": 0.0}), first fit, largest first.

    Raises ConfigError that names the first actor without a place, and what would make room.
    """
    free = [{"CPU": node.get("CPU", 0.0), "GPU": node.get("GPU", 0.0)} for node in nodes]
    for demand in sorted(asked, key=lambda d: (d.num_gpus, d.num_cpus), reverse=True):
        for node in free:
            if _fits(demand, node):
                node["CPU"] -= demand.num_cpus
                node["GPU"] -= demand.num_gpus
                break
        else:
            raise ConfigError(_no_room(demand, asked, nodes))


def _fits(demand: Demand, node: Mapping[str, float]) -> bool:
    rounding = 1e-9
    return demand.num_cpus <= node["CPU"] + rounding and demand.num_gpus <= node["GPU"] + rounding


def _no_room(demand: Demand, asked: Sequence[Demand], nodes: Sequence[Mapping[str, float]]) -> str:
    cpus, gpus = sum(d.num_cpus for d in asked), sum(d.num_gpus for d in asked)
    there = [sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")]
    return (
        f"no node has room for a {demand.name} ({demand.num_cpus:g} CPU, {demand.num_gpus:g} "
        f"GPU): the run asks for {cpus:g} CPU and {gpus:g} GPU in all, the cluster of "
        f"{len(nodes)} has {there[0]:g} CPU and {there[1]:g} GPU; lower {demand.setting} or add "
        "nodes"
    )
