"""The members of one task, played side by side, and how urgent their work is.

What waits for a place goes in this order: groups that can still have two scores before those that
cannot; the batch that the learner wants next before later ones; tasks with more hops first, since
their episodes last longest; then the older task.
"""

import asyncio

from cluster.members import MemberRunner
from core.places import Urgency
from core.records import Failure, Group, Member, Task


async def play_group(
    runner: MemberRunner, task: Task, *, size: int, extra: int, groups_per_step: int
) -> tuple[Member, ...]:
    """`size + extra` members, in the order of their index. With `extra` above 0 those that still
    play are stopped, and left out, once `size` have a score."""
    done: list[Member] = []

    def urgency() -> Urgency:
        num_failed = sum(isinstance(member.outcome, Failure) for member in done)
        is_lost = size + extra - num_failed < 2
        return (is_lost, task.ordinal // groups_per_step, -task.meta.hops, task.ordinal)

    playing = [
        asyncio.create_task(runner.run(task, index=index, mode="train", urgency=urgency))
        for index in range(size + extra)
    ]
    try:
        for ended in asyncio.as_completed(playing):
            done.append(await ended)
            if extra and len(Group(task=task, members=tuple(done)).scored) >= size:
                break
    finally:
        for one in playing:
            one.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
    return tuple(sorted(done, key=lambda member: member.rollout_id.index))
