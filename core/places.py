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
        self._waiting: list[tuple[Urgency, int, float, asyncio.Future[None]]] = []
        """With the loop's time at which it came."""
        self._longest_wait_s = 0.0
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
        return sum(not future.done() for *_, future in self._waiting)

    @property
    def oldest_waiting_s(self) -> float:
        """Age of the piece of work that waits longest; 0.0 when none waits. Call it on the loop."""
        waiting = [since_s for _, _, since_s, future in self._waiting if not future.done()]
        return asyncio.get_running_loop().time() - min(waiting) if waiting else 0.0

    def take_longest_wait_s(self) -> float:
        """The largest `oldest_waiting_s` since the last call."""
        longest_s = max(self._longest_wait_s, self.oldest_waiting_s)
        self._longest_wait_s = 0.0
        return longest_s

    def resize(self, number: int) -> None:
        self._number = number
        self._let_in()

    @asynccontextmanager
    async def place(self, urgency: Urgency = ()) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        future, since_s = loop.create_future(), loop.time()
        heapq.heappush(self._waiting, (urgency, next(self._arrivals), since_s, future))
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
            _, _, since_s, future = heapq.heappop(self._waiting)
            if not future.done():
                wait_s = future.get_loop().time() - since_s
                self._longest_wait_s = max(self._longest_wait_s, wait_s)
                self._taken += 1
                future.set_result(None)
