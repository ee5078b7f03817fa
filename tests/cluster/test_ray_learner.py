"""What comes back from a group of learners, some of which fail, without any Ray."""

from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.rllib.utils.actor_manager import ResultOrError

from cluster.algorithm import RayLearner
from cluster.parts import LearnerLostError
from core.errors import FidelityError, LearnerError


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
