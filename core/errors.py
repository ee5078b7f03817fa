"""The error tree, and the one place where any exception becomes a `Failure`.

    GensearcherError
    +-- ConfigError        the user's input: a field, its value, and the mend        (exit code 2)
    +-- DataError          a dataset row: file, row, field, mend
    +-- StageError         our own fault at one boundary; becomes Failure(stage=...)
    |   +-- InfraError     a dead actor, a lost node, an engine fault
    |   +-- ToolError      a provider that is down after its retries
    |   +-- RenderError    the image model failed
    |   +-- JudgeError     no valid verdict after its retries
    |   +-- LearnerError   the update failed
    +-- StalledError       nothing moved for too long; names stage, oldest item and age
    +-- FidelityError      rollout and learner did not see the same tokens or pixels

An agent's mistake is never an exception: it is an `AnswerError` with a real low score. Every
error pickles, because it may cross a Ray actor.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from core.records import Failure, Stage


class GensearcherError(Exception):
    """Base of all our errors."""


class ConfigError(GensearcherError):
    """One clear sentence: the field, the value, the mend."""


class DataError(GensearcherError):
    """A row that cannot be used: file, row, field, mend."""


class StalledError(GensearcherError):
    """Nothing moved for `stall_timeout_s`."""


class FidelityError(GensearcherError):
    """The learner would train on something else than the rollout saw."""


class StageError(GensearcherError):
    """Our own fault at one boundary."""

    stage = Stage.INFRA

    def __init__(self, message: str, *, retryable: bool = True, error_type: str = "") -> None:
        super().__init__(message)
        self.retryable = retryable
        self.error_type = error_type or type(self).__name__

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), str(self), self.retryable, self.error_type))

    def as_failure(self) -> Failure:
        return Failure(
            stage=self.stage,
            error_type=self.error_type,
            message=str(self)[:500],
            retryable=self.retryable,
        )


def _rebuild(kind: type[StageError], message: str, retryable: bool, error_type: str) -> StageError:
    return kind(message, retryable=retryable, error_type=error_type)


class InfraError(StageError):
    stage = Stage.INFRA


class ToolError(StageError):
    stage = Stage.TOOL


class RenderError(StageError):
    stage = Stage.RENDER


class JudgeError(StageError):
    stage = Stage.JUDGE


class LearnerError(StageError):
    stage = Stage.LEARNER


@contextmanager
def boundary(kind: type[StageError], what: str) -> Iterator[None]:
    """Attribute whatever escapes to one stage: `with boundary(RenderError, "render"): ...`.

    Our own errors pass through unchanged; cancellation and keyboard interrupts are not errors.
    """
    try:
        yield
    except GensearcherError:
        raise
    except Exception as error:
        message = f"{what}: {type(error).__name__}: {error}"
        raise kind(message, error_type=type(error).__name__) from error
