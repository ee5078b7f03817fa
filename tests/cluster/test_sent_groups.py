"""A group goes into the object store once."""

from typing import Any

import pytest
import ray

from cluster.sent_groups import SentGroups
from tests.builders import make_group


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was put into the store; the reference of each is its number."""
    stored: list[Any] = []

    def store(value: Any) -> int:
        stored.append(value)
        return len(stored) - 1

    monkeypatch.setattr(ray, "put", store)
    return stored


def test_a_group_that_is_named_twice_is_sent_once(put: list[Any]) -> None:
    sent, group = SentGroups(), make_group(scores=[0.0, 1.0])

    assert sent.refs([group]) == sent.refs([group])
    assert put == [group]


def test_a_task_that_was_played_again_is_sent_again(put: list[Any]) -> None:
    sent = SentGroups()

    sent.refs([make_group(scores=[0.0, 1.0])])
    sent.refs([make_group(scores=[1.0, 0.0])])

    assert len(put) == 2


def test_nothing_is_kept_once_the_step_is_done(put: list[Any]) -> None:
    sent, group = SentGroups(), make_group(scores=[0.0, 1.0])

    sent.refs([group])
    sent.forget()
    sent.refs([group])

    assert len(put) == 2
