"""What is set for a Prometheus to read, without a Ray."""

from collections.abc import Mapping

import pytest

from cluster.track import prometheus
from cluster.track.prometheus import PrometheusExporter
from tests.builders_cluster import make_engine_stats, make_status


class Gauges:
    """Stands for ray.util.metrics.Gauge; keeps the latest value of every name and worker."""

    values: dict[tuple[str, str], float]

    def __init__(self, name: str, **_: object) -> None:
        self._name = name

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        self.values[self._name, tags.get("worker", "")] = value


def test_a_worker_that_is_away_holds_no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gauges, "values", {}, raising=False)
    monkeypatch.setattr(prometheus, "Gauge", Gauges)
    exporter, status = PrometheusExporter(run="mine"), make_status()
    busy = make_engine_stats(sampled=10, kv=0.25)

    exporter.sample(status, {"w1": busy, "w2": busy})
    exporter.sample(status, {"w1": busy})

    of = {worker: Gauges.values["gensearcher_engine_kv_use_now", worker] for worker in ("w1", "w2")}
    assert of == {"w1": 0.25, "w2": 0.0}
    assert Gauges.values["gensearcher_engine_running_now", "w1"] == busy.num_running > 0
    assert Gauges.values["gensearcher_engine_running_now", "w2"] == 0
