"""Every query of the committed dashboard names a metric that a run exports, and its labels."""

import json
import re
from pathlib import Path
from typing import Any

from cluster.track.prometheus import LIVE, exported_name
from tests.documented_metrics import MAY_BE_ABSENT, promised

DASHBOARD = Path(__file__).resolve().parents[3] / "cluster/track/grafana.json"
QUERY = re.compile(r'ray_(gensearcher_\w+)\{run="\$run"\}')


def panels() -> list[dict[str, Any]]:
    board = json.loads(DASHBOARD.read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_every_query_names_a_metric_that_exists() -> None:
    exported = {exported_name(name) for name in (*promised(), *MAY_BE_ABSENT, *LIVE)}
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    found = [match.group(1) for query in queries if (match := QUERY.fullmatch(query))]
    assert len(found) == len(queries) > 50
    assert set(found) <= exported


def test_every_live_metric_is_shown() -> None:
    shown = DASHBOARD.read_text()
    assert [name for name in LIVE if f"{exported_name(name)}{{" not in shown] == []


def test_panels_do_not_overlap_and_are_numbered_once() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        mine = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not mine & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= mine
    assert len({panel["id"] for panel in panels()}) == len(panels())
