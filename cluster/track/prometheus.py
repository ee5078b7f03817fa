"""A run's numbers for Prometheus, through Ray's own metrics endpoint.

Ray exports whatever its processes declare, under the name `ray_<name>`, on the port that
`ray start --metrics-export-port` names. Every metric of a step is there as `gensearcher_<name>`
with "/" as "_"; `LIVE` ones are set every few seconds. All carry the name of the run as a tag.
docs/metrics.md says how a Prometheus finds them; cluster/track/grafana.json shows them.
"""

from collections.abc import Mapping

from ray.util.metrics import Gauge

from cluster.track.meters import EngineStatsOf
from cluster.track.status import Status
from cluster.track.timeline import STAGES

PREFIX = "gensearcher"

LIVE = {
    "policy_version": "Optimizer steps done.",
    "in_flight": "Pieces of work under way, by kind.",
    "oldest_item_seconds": "Age of the piece of work that runs longest.",
    "groups_ready": "Finished groups that wait for their batch.",
    "failed_attempts": "Attempts that a fault of ours ended, by stage.",
    "engine_kv_use_now": "Share of the KV cache in use, by worker.",
    "engine_running_now": "Requests in an engine, by worker.",
    "engine_waiting_now": "Requests that an engine has no room for yet, by worker.",
}


def exported_name(metric: str) -> str:
    """Example: exported_name("reward/mean") == "gensearcher_reward_mean"."""
    return f"{PREFIX}_{metric.replace('/', '_')}"


class PrometheusExporter:
    """Implements cluster.track.meters.Exporter. Needs a connected Ray."""

    def __init__(self, *, run: str) -> None:
        self._tags = {"run": run}
        self._gauges: dict[str, Gauge] = {}
        self._workers: set[str] = set()
        """Whose engines were ever sampled: Ray goes on exporting what was set last, so one that is
        away is set to 0."""

    def sample(self, status: Status, engines: EngineStatsOf) -> None:
        self._set("policy_version", status.step)
        self._set("oldest_item_seconds", status.oldest_age_s)
        self._set("groups_ready", status.groups_finished)
        for kind in STAGES:
            self._set("in_flight", status.in_flight.get(kind, 0), kind=kind)
        for stage, number in status.failures.items():
            self._set("failed_attempts", number, stage=stage)
        self._workers |= engines.keys()
        for worker in self._workers:
            stats = engines.get(worker)
            self._set("engine_running_now", stats.num_running if stats else 0, worker=worker)
            self._set("engine_waiting_now", stats.num_waiting if stats else 0, worker=worker)
            kv_usage = stats.kv_usage if stats else 0.0
            if kv_usage is not None:
                self._set("engine_kv_use_now", kv_usage, worker=worker)

    def step(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._set(name, value)

    def _set(self, metric: str, value: float, **tags: str) -> None:
        gauge = self._gauges.get(metric)
        if gauge is None:
            description = LIVE.get(metric, f"{metric} of the last step.")
            gauge = Gauge(exported_name(metric), description=description, tag_keys=("run", *tags))
            self._gauges[metric] = gauge
        gauge.set(value, tags={**self._tags, **tags})
