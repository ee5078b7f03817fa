"""What a recipe will need before anything starts: placement, memory, seconds per step.

Enters: a Config. Leaves: a `Plan` whose every figure says how it was computed and from what
source (a formula, a measurement, a publication, or "assumed"). Pure arithmetic: it runs on any
machine and loads no model. Raises ConfigError when a model's size cannot be known.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

from actors.image_models import is_api
from cluster.plan.memory import (
    host_memory,
    learner_memory,
    render_memory,
    rollout_memory,
    served_memory,
)
from cluster.plan.model_sizes import image_model_size, policy_size
from cluster.plan.placement import demands, served_models
from cluster.plan.rates import Figure
from cluster.plan.seconds import stage_seconds
from core.config import Config
from core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`count` processes of one kind and what each asks of Ray."""

    role: str
    count: int
    cpus: float
    gpus: float
    holds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    recipe: str
    placements: tuple[Placement, ...]
    memory: tuple[Figure, ...]
    seconds: tuple[Figure, ...]

    @property
    def num_gpus(self) -> float:
        return sum(place.count * place.gpus for place in self.placements)

    @property
    def num_cpus(self) -> float:
        return sum(place.count * place.cpus for place in self.placements)

    @property
    def memory_by_place(self) -> dict[str, float]:
        """Bytes of each kind of process, e.g. "learner (host)"."""
        places: dict[str, float] = defaultdict(float)
        for figure in self.memory:
            places[figure.where] += figure.value
        return dict(places)

    @property
    def host_bytes(self) -> float:
        """Host memory of the node that holds the learner, were everything else there too."""
        return sum(figure.value for figure in self.memory if figure.where.endswith("(host)"))

    @property
    def step_s(self) -> float:
        """All stages one after the other: an upper bound, since groups stream."""
        return sum(figure.value for figure in self.seconds)


def make_plan(config: Config, *, recipe: str) -> Plan:
    """Raises ConfigError when a model's size cannot be known."""
    policy = policy_size(config.policy.path)
    image_model = None if is_api(config.render) else image_model_size(config.render.path)
    return Plan(
        recipe=recipe,
        placements=placements(config),
        memory=(
            *rollout_memory(config, policy),
            *learner_memory(config, policy),
            *render_memory(config, image_model),
            *served_memory(config),
            *host_memory(config, policy),
        ),
        seconds=stage_seconds(config, policy, image_model),
    )


def plan_or_none(config: Config, *, recipe: str) -> Plan | None:
    """None when a model's size cannot be known."""
    try:
        return make_plan(config, recipe=recipe)
    except ConfigError:
        return None


def placements(config: Config) -> tuple[Placement, ...]:
    """Every actor of the run; render replicas at their most."""
    holds = {
        "rollout worker": f"vLLM, tensor parallel {config.rollout.tensor_parallel}",
        "render actor": f"{config.render.pipeline}, {config.render.min_replicas} to "
        f"{config.render.max_replicas} replicas",
        "learner": "DeepSpeed, optimizer in host memory"
        + (", computing on its GPU" if config.learner.device == "cuda" else ""),
        "search actor": f"tools over {', '.join(config.tools.providers)}, and their cache",
        "judge actor": f"{config.judge.kind} judge",
    }
    most = {"render actor": config.render.max_replicas}
    for role, model in served_models(config).items():
        holds[role] = f"vLLM, {model.path}, {model.min_replicas} to {model.max_replicas} replicas"
        most[role] = model.max_replicas
    return tuple(
        Placement(
            role=demand.name,
            count=most.get(demand.name, count),
            cpus=demand.num_cpus,
            gpus=demand.num_gpus,
            holds=holds[demand.name],
        )
        for demand, count in Counter(demands(config)).items()
    )
