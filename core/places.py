"""Room for so many pieces of work at once; a free place goes to the most urgent one that waits.

places = Places(8)
async with places.place(urgency=(2, 0)):
    ...
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

Urgency = tuple[float, ...]
"""The smallest goes first; of equals, the one that has waited longest."""


class Places:
    """Like asyncio.Semaphore, but in order of urgency, and with a number that may change."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._taken = 0
        self._waiting: list[tuple[Urgency, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @property
    def number(self) -> int:
        return self._number

    @property
    def taken(self) -> int:
        """May exceed `number` for a while after that was lowered: nothing is put out."""
        return self._taken

    @property
    def num_waiting(self) -> int:
        return sum(not future.done() for _, _, future in self._waiting)

    def resize(self, number: int) -> None:
        self._number = number
        self._let_in()

    @asynccontextmanager
    async def place(self, urgency: Urgency = ()) -> AsyncIterator[None]:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._arrivals), future))
        self._let_in()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._leave()  # it was let in at the very moment
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._taken -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._taken < self._number:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                self._taken += 1
                future.set_result(None)
