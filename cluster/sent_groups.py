"""Groups on their way to the learner: each is put into the object store once.

The learner is told of a group when it begins with it and again when it takes the step; a group of
six long episodes takes milliseconds to pickle, which the loop of the controller has not.
"""

from collections.abc import Sequence

import ray

from core.records import Group


class SentGroups:
    def __init__(self) -> None:
        self._sent: dict[int, tuple[Group, ray.ObjectRef[Group]]] = {}

    def refs(self, groups: Sequence[Group]) -> "list[ray.ObjectRef[Group]]":
        """In the order of the groups. They are kept until `forget`."""
        return [self._ref(group) for group in groups]

    def forget(self) -> None:
        """The step is done, the learner is another one, or the store has lost some."""
        self._sent.clear()

    def _ref(self, group: Group) -> "ray.ObjectRef[Group]":
        sent, ref = self._sent.get(group.task.ordinal, (None, None))
        if ref is None or sent is not group:  # a task that is played again has another group
            ref = ray.put(group)
            self._sent[group.task.ordinal] = group, ref
        return ref
