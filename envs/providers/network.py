"""Whether a host that is silent is alone with it, or the network is not there at all."""

import time
from collections.abc import Callable

ANSWERED_S = 60.0
"""So soon after any host has answered, the network is taken to be there."""


class Network:
    """Shared by all that ask hosts which strangers named."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answered_s = -ANSWERED_S

    def has_answered(self) -> None:
        """To be told of every response, whatever it says."""
        self._answered_s = self._clock()

    @property
    def is_there(self) -> bool:
        return self._clock() - self._answered_s < ANSWERED_S
