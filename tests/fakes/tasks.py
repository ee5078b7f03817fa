"""Training tasks without end that need no world."""

from core.records import Task
from tests.builders import make_task


class ManyTasks:
    """Implements envs.tasks.TaskSource."""

    def task(self, ordinal: int) -> Task:
        return make_task(ordinal)
