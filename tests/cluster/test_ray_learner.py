"""What comes back from a group of learners, some of which fail, without any Ray."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError
from ray.rllib.utils.actor_manager import ResultOrError

from cluster.algorithm import RayLearner
from cluster.parts import LearnerLostError
from core.errors import FidelityError, LearnerError
from tests.builders import make_group


class Group:
    """Stands for a LearnerGroup whose learners answer as they are told."""

    def __init__(self, *answers: Any, size: int = 2) -> None:
        self.answers = answers
        self.size = size

    def __len__(self) -> int:
        return self.size

    def foreach_learner(self, method: Callable[[Any], Any]) -> list[ResultOrError]:
        return [
            ResultOrError(error=answer)
            if isinstance(answer, Exception)
            else ResultOrError(result=answer)
            for answer in self.answers
        ]


def learner(*answers: Any, **options: Any) -> RayLearner:
    return RayLearner(Group(*answers, **options), replace=lambda: None)  # type: ignore[arg-type,return-value]


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("update", "", cause)


GLOO = task_error(LearnerError("update: RuntimeError: connection closed by peer"))


async def test_the_first_answer_counts() -> None:
    assert await learner("update", None).publish() == "update"
    assert await learner(None, None).saved() is None


@pytest.mark.parametrize("answers", [(ActorDiedError(), GLOO), (GLOO, ActorDiedError())])
async def test_a_dead_learner_is_told_from_those_who_waited_for_it(answers: Any) -> None:
    with pytest.raises(LearnerLostError):
        await learner(*answers).step([])


async def test_a_learner_that_is_known_to_be_dead_is_missed() -> None:
    with pytest.raises(LearnerLostError):
        await learner("update").step([])


async def test_our_own_errors_come_out_as_they_went_in() -> None:
    error = task_error(FidelityError("other pixels"))
    with pytest.raises(FidelityError, match="other pixels"):
        await learner(error, error).step([])


class Store:
    """Stands for the object store, which loses what it was given first, `losses` times."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.given: list[Any] = []

    def put(self, value: Any) -> int:
        self.given.append(value)
        return len(self.given)

    def learn(self, *, training_data: Any) -> tuple[int, ...] | None:
        """What a learner makes of it: nothing while it is lost."""
        return None if training_data.batch[0] <= self.losses else tuple(training_data.batch)


class Learners(Group):
    """Two that are really asked, on one store."""

    def __init__(self, store: Store) -> None:
        super().__init__(SimpleNamespace(update=store.learn), SimpleNamespace(update=store.learn))

    def foreach_learner(self, method: Callable[[Any], Any]) -> list[ResultOrError]:
        return [ResultOrError(result=method(one)) for one in self.answers]


async def test_a_group_that_the_store_has_lost_is_put_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, group = Store(losses=1), make_group(scores=[0.0, 1.0])
    monkeypatch.setattr(ray, "put", store.put)
    found = await RayLearner(Learners(store), replace=lambda: None).step([group])  # type: ignore[arg-type,return-value]
    assert found == (2,)
    assert store.given == [group, group]


async def test_a_store_that_keeps_nothing_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(losses=9)
    monkeypatch.setattr(ray, "put", store.put)
    learner = RayLearner(Learners(store), replace=lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(LearnerError, match="lost twice"):
        await learner.step([make_group(scores=[0.0, 1.0])])
