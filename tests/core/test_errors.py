import asyncio
import pickle

import pytest

from core import errors
from core.errors import (
    ConfigError,
    GensearcherError,
    InfraError,
    JudgeError,
    RenderError,
    StageError,
    boundary,
)
from core.records import Stage


def all_errors() -> list[type[GensearcherError]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, GensearcherError)]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_pickles(kind: type[GensearcherError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what happened")))

    assert type(copy) is kind
    assert str(copy) == "what happened"


def test_a_stage_error_keeps_what_the_retry_logic_needs() -> None:
    error = JudgeError("no verdict", retryable=False, error_type="HTTP 401")

    copy = pickle.loads(pickle.dumps(error))

    assert (copy.retryable, copy.error_type) == (False, "HTTP 401")
    failure = copy.as_failure()
    assert (failure.stage, failure.error_type, failure.message, failure.retryable) == (
        *(Stage.JUDGE, "HTTP 401", "no verdict", False),
    )


def test_every_stage_has_its_error() -> None:
    stages = {kind.stage for kind in all_errors() if issubclass(kind, StageError)}

    assert stages == set(Stage)


def test_a_boundary_attributes_what_escapes() -> None:
    cause = KeyError("width")

    with pytest.raises(RenderError) as caught, boundary(RenderError, "render"):
        raise cause

    assert str(caught.value) == "render: KeyError: 'width'"
    assert caught.value.error_type == "KeyError"
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    "error", [ConfigError("c"), InfraError("i"), asyncio.CancelledError(), KeyboardInterrupt()]
)
def test_a_boundary_lets_our_errors_and_cancellation_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, boundary(RenderError, "render"):
        raise error

    assert caught.value is error
