"""What a Prometheus reads from a real Ray, against what the committed dashboard asks for."""

import asyncio
import contextlib
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import aiohttp
import pytest
import ray

from cluster.track.meters import EngineStatsOf, RunMeters
from cluster.track.prometheus import PrometheusExporter
from cluster.track.spending import Spending
from tests.builders_cluster import make_engine_stats, make_status
from tests.documented_metrics import promised

pytestmark = [
    pytest.mark.integration,
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
]

DASHBOARD = Path(__file__).resolve().parents[2] / "cluster/track/grafana.json"
LINE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
TIMEOUT_S = 240.0
"""Ray hands its processes' numbers on every few seconds."""

Scraped = Mapping[str, Collection[tuple[str, float]]]
"""By metric of this run: its labels and its value, once for every set of labels."""


async def test_every_metric_of_the_dashboard_is_scraped_with_the_name_of_its_run(
    tmp_path: Path,
) -> None:
    asked = set(re.findall(r"ray_gensearcher_\w+(?=\{)", DASHBOARD.read_text()))
    written = {name: float(number) for number, name in enumerate(sorted(promised()), start=1)}
    written["reward/mean"], written["members/scored"] = 0.5, 8.0  # a price of a point of reward
    assert len(asked) > 50

    meters = RunMeters(
        engine_stats=_one_engine,
        spending=Spending(tmp_path, {"judge": _one_dollar}),
        exporter=PrometheusExporter(run="scraped"),
    )
    status = make_status(failures={"judge": 2}, in_flight={"rollout": 12})
    watching = asyncio.create_task(meters.watch(lambda: status))
    try:
        await meters.end_step(written)
        scraped = await _scrape_until(asked)
    finally:
        watching.cancel()
    assert asked - scraped.keys() == set()
    assert {value for _, value in scraped["ray_gensearcher_reward_mean"]} == {0.5}
    in_flight = scraped["ray_gensearcher_in_flight"]
    assert [number for labels, number in in_flight if 'kind="rollout"' in labels] == [12.0]
    (worker,) = scraped["ray_gensearcher_engine_kv_use_now"]
    assert 'worker="w1"' in worker[0]
    assert worker[1] == 0.25


async def _one_engine() -> EngineStatsOf:
    return {"w1": make_engine_stats(sampled=10, kv=0.25)}


async def _one_dollar() -> float:
    return 1.0


async def _scrape_until(wanted: Collection[str]) -> Scraped:
    """The last answer of the node's metrics port, when all is there or the time is over. Runs of
    other tests on the same Ray are left out."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    give_up_s = time.monotonic() + TIMEOUT_S
    found: dict[str, list[tuple[str, float]]] = {}
    async with aiohttp.ClientSession() as session:
        while wanted - found.keys() and time.monotonic() < give_up_s:
            await asyncio.sleep(1)
            text = ""
            with contextlib.suppress(aiohttp.ClientError):  # nobody listens there at first
                async with session.get(url) as answer:
                    text = await answer.text()
            found = {}
            for name, labels, value in LINE.findall(text):
                if 'run="scraped"' in labels:
                    found.setdefault(name, []).append((labels, float(value)))
    return found
