"""No silent hang: raise when nothing has moved for too long, and say what everything waits for."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cluster.track.timeline import Timeline
from core.errors import StalledError

T = TypeVar("T")

NUM_NAMED = 20
"""Pieces of work in the dump; the oldest ones."""

Dump = Callable[[str], Path]
"""Writes this text, and the stacks of all processes, to a file."""


async def guarded(
    work: Coroutine[Any, Any, T],
    timeline: Timeline,
    *,
    crash: asyncio.Future[None],
    limit_s: float,
    dump: Dump | None = None,
) -> T:
    """`work`, cut short by a stall, or by `crash`: the end of something that it relies on."""
    timeline.touch()
    worker = asyncio.create_task(work)
    watchdog = asyncio.create_task(watch(timeline, limit_s=limit_s, dump=dump))
    try:
        ends: list[asyncio.Future[Any]] = [worker, watchdog, crash]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for failed in (crash, watchdog):
            if failed.done():
                failed.result()
        return worker.result()
    finally:
        worker.cancel()
        watchdog.cancel()


async def watch(timeline: Timeline, *, limit_s: float, dump: Dump | None = None) -> NoReturn:
    """Raises StalledError that names the stage, its oldest item and the item's age."""
    while True:
        quiet_s = timeline.quiet_s
        if quiet_s >= limit_s:
            sentence = _sentence(timeline, quiet_s, limit_s)
            if dump is not None:
                text = f"{sentence}\n{_in_flight(timeline)}"
                try:
                    path = await asyncio.to_thread(dump, text)
                    sentence += f"; the stacks of all processes are in {path}"
                except OSError as error:  # a full disk, which may be why nothing moves
                    sentence += f"; the stacks of all processes could not be written: {error}"
            raise StalledError(sentence)
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


def _in_flight(timeline: Timeline) -> str:
    oldest = sorted(timeline.open_spans, key=lambda span: span.start_s)[:NUM_NAMED]
    now = timeline.now()
    return "\n".join(f"{now - span.start_s:8.1f} s  {span.kind} {span.item}" for span in oldest)
