"""The learner works ahead: gradients of a batch's groups as they end, not once all have ended.

Only groups that are certain to be in the next batch (cluster/frontier.py) are begun, each once.
"""

from cluster.frontier import Frontier
from cluster.parts import RemoteLearner
from cluster.track.timeline import Timeline


class Ahead:
    def __init__(self, learner: RemoteLearner, timeline: Timeline, *, allowed: bool) -> None:
        """Not `allowed` in sync mode, where a run is the same bit for bit: gradients are added up
        in the order in which groups end."""
        self._learner = learner
        self._timeline = timeline
        self._allowed = allowed
        self._begun: set[int] = set()

    async def begin(self, frontier: Frontier) -> bool:
        """Begin what can be; False: there was nothing."""
        certain = frontier.certain() if self._allowed else ()
        groups = [group for group in certain if group.task.ordinal not in self._begun]
        self._begun.update(group.task.ordinal for group in groups)
        if groups:
            item = f"part of step {frontier.step + 1}"
            await self._timeline.learning(item, self._learner.begin(groups))
        return bool(groups)

    def forget(self) -> None:
        """The batch is taken, or the learner is another one."""
        self._begun.clear()
