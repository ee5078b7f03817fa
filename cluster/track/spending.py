"""Dollars of a run, by what they were paid for, over all its starts.

Enters: what each paying service says that it has spent since it came up. Leaves: the totals of the
run, kept in runs/<name>/spending.json. Written after every step and every evaluation: what a
process spends between its last write and being killed is not known.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from ray.exceptions import RayError

from core.errors import GensearcherError
from core.files import write_json_atomic

logger = logging.getLogger(__name__)

SPENDING = "spending.json"
PATIENCE_S = 5.0
"""For one service; a step never waits long for a number."""

Source = Callable[[], Awaitable[float]]
"""Dollars since the service came up."""


class Spending:
    def __init__(self, folder: Path, sources: Mapping[str, Source]) -> None:
        self._path = folder / SPENDING
        self._sources = dict(sources)
        self._before: Mapping[str, float] = read_spending(folder)
        """By earlier starts of this run."""
        self._totals = dict(self._before)

    def add_source(self, name: str, source: Source) -> None:
        self._sources[name] = source

    @property
    def totals(self) -> Mapping[str, float]:
        """Of the run, as of the last count."""
        return dict(self._totals)

    @property
    def total_usd(self) -> float:
        return sum(self._totals.values())

    async def count(self) -> Mapping[str, float]:
        """The totals of the run now. A service that does not answer counts as it did last."""
        for name, source in self._sources.items():
            try:
                async with asyncio.timeout(PATIENCE_S):
                    self._totals[name] = self._before.get(name, 0.0) + await source()
            except (GensearcherError, RayError, TimeoutError) as error:
                logger.warning("the dollars of %s are those of the last count: %r", name, error)
        write_json_atomic(self._path, self._totals)
        return self.totals


def read_spending(folder: Path) -> dict[str, float]:
    """Of a run folder; nothing when nothing was counted there."""
    path = folder / SPENDING
    return json.loads(path.read_text()) if path.is_file() else {}
