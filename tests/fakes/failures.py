"""Scripted failures: `fail_times={key: 2}` makes the first two calls with that key fail."""

from collections import Counter
from collections.abc import Hashable, Mapping


class FailureScript:
    """Counts down the failures that are still to come for each key."""

    def __init__(self, fail_times: Mapping[Hashable, int] | None = None) -> None:
        self._left = Counter(dict(fail_times or {}))

    def should_fail(self, key: Hashable) -> bool:
        """True as often as the script says for this key, then False for ever."""
        if self._left[key] <= 0:
            return False
        self._left[key] -= 1
        return True
