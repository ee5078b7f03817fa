"""No silent hang: raise when nothing has moved for too long, and say what everything waits for."""

import asyncio
from typing import NoReturn

from cluster.timeline import Timeline
from core.errors import StalledError


async def watch(timeline: Timeline, *, limit_s: float) -> NoReturn:
    """Raises StalledError that names the stage, its oldest item and the item's age."""
    while True:
        quiet_s = timeline.quiet_s
        if quiet_s >= limit_s:
            raise StalledError(_sentence(timeline, quiet_s, limit_s))
        await asyncio.sleep(max(0.01, (limit_s - quiet_s) / 2))


def _sentence(timeline: Timeline, quiet_s: float, limit_s: float) -> str:
    start = f"nothing moved for {quiet_s:.1f} s (train.stall_timeout_s={limit_s:g})"
    oldest = timeline.oldest
    if oldest is None:
        return f"{start}, and nothing is in flight"
    age_s = timeline.now() - oldest.start_s
    return (
        f"{start}; the oldest of {sum(timeline.in_flight.values())} in flight is {oldest.kind} "
        f"of {oldest.item}, {age_s:.1f} s old"
    )
