"""An exporter that only remembers."""

from collections.abc import Mapping

from cluster.track.meters import EngineStatsOf
from cluster.track.status import Status


class MemoryExporter:
    """Implements cluster.track.meters.Exporter."""

    def __init__(self) -> None:
        self.samples: list[tuple[Status, EngineStatsOf]] = []
        self.steps: list[Mapping[str, float]] = []

    def sample(self, status: Status, engines: EngineStatsOf) -> None:
        self.samples.append((status, engines))

    def step(self, metrics: Mapping[str, float]) -> None:
        self.steps.append(metrics)
