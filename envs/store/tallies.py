"""Counts of a session that survive the process which counted.

Names are slash-separated ("dollars/serper"). They are kept in memory and added to the store now and
then, so a killed process loses what it counted in the last `FLUSH_S`. Several processes of one
session add to the same counts.
"""

import time
from collections import Counter

from envs.store.store import Store

FLUSH_S = 1.0


class Tallies:
    def __init__(self, store: Store, session: str) -> None:
        """`session` is "<run>/<launch>"."""
        self.session = session
        self._store = store
        self._new: Counter[str] = Counter()
        self._flushed_s = time.monotonic()

    def add(self, name: str, value: float = 1) -> None:
        self._new[name] += value  # type: ignore[assignment]  # dollars are no integers

    def pay(self, provider: str, usd: float) -> None:
        """An `envs.provider.Pay`."""
        self.add(f"dollars/{provider}", usd)

    @property
    def due(self) -> bool:
        return bool(self._new) and time.monotonic() - self._flushed_s > FLUSH_S

    def take(self) -> dict[str, float]:
        """What was counted since it was last taken; `Store.add_tallies` keeps it."""
        new, self._new = self._new, Counter()
        self._flushed_s = time.monotonic()
        return dict(new)

    def totals(self) -> dict[str, float]:
        """Of all processes of the session; those of others may be a second old."""
        self._store.add_tallies(self.session, self.take())
        return self._store.tallies(self.session)
