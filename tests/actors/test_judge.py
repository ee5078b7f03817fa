"""The judge actor: verdicts, the judge's own errors, and a judge process that dies."""

import asyncio
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.judge import JudgeClient, start_judge
from core.errors import ConfigError, JudgeError
from core.protocols import ImageVerdict, TextVerdict
from core.records import Answer, ImageRef, Task
from tests.builders import make_answer, make_image_ref, make_task
from tests.fakes.judge import FakeJudge, text_verdict

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


class FrailJudge(FakeJudge):
    """Dies of a path that is not there yet, dies of ".../poison" always, errs on "unclear"."""

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        if task.task_id.endswith("/poison"):
            _note(Path(task.task_id))
            os._exit(1)
        if task.task_id == "unclear":
            raise JudgeError("the verdict could not be read", retryable=False)
        if task.task_id.startswith("/") and not Path(task.task_id).exists():
            Path(task.task_id).touch()
            os._exit(1)
        await super().judge_text(task=task, answer=answer)  # counts what it costs
        return text_verdict(0.75)

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        raise ZeroDivisionError("a bug")


def _note(path: Path) -> None:
    with path.open("a") as file:
        file.write("asked\n")


@pytest.fixture(scope="module")
def client(ray_cluster: str) -> Iterator[JudgeClient]:
    handle, client = start_judge(FrailJudge, num_cpus=0.1)
    yield client
    ray.kill(handle)


async def ask(client: JudgeClient, task_id: str) -> TextVerdict:
    return await client.judge_text(task=make_task(task_id=task_id), answer=make_answer())


async def test_verdicts_come_back_and_the_judge_is_named(client: JudgeClient) -> None:
    verdicts = await asyncio.gather(*(ask(client, "clear") for _ in range(8)))
    assert {verdict.value for verdict in verdicts} == {0.75}
    assert (client.name, client.prompt_sha) == ("fake", "")


def test_what_the_user_can_mend_comes_out_as_it_went_in(ray_cluster: str) -> None:
    def make_judge() -> FrailJudge:
        raise ConfigError("verdicts.sqlite cannot be used; delete the file")

    with pytest.raises(ConfigError, match=r"verdicts\.sqlite cannot be used; delete the file"):
        start_judge(make_judge, num_cpus=0.1)


async def test_the_judges_own_error_comes_out_as_it_was(client: JudgeClient) -> None:
    with pytest.raises(JudgeError, match="could not be read") as caught:
        await ask(client, "unclear")
    assert not caught.value.retryable


async def test_a_bug_in_the_judge_is_a_judge_error(client: JudgeClient) -> None:
    with pytest.raises(JudgeError, match="ZeroDivisionError"):
        await client.judge_image(task=make_task(), image=make_image_ref())


async def test_a_judge_that_dies_is_asked_again(client: JudgeClient, tmp_path: Any) -> None:
    assert (await ask(client, str(tmp_path / "died"))).value == 0.75
    assert (tmp_path / "died").exists()


async def test_what_a_judge_spent_is_not_forgotten_when_it_is_started_again(
    ray_cluster: str, tmp_path: Path
) -> None:
    """Though the second start has spent more than the first when it is first asked."""
    handle, client = start_judge(functools.partial(FrailJudge, cost_usd=1.0), num_cpus=0.1)
    await ask(client, "clear")
    assert await client.spent_usd() == 1.0
    await ask(client, str(tmp_path / "died"))
    await ask(client, "clear")
    assert await client.spent_usd() == 3.0
    ray.kill(handle)


async def test_a_question_that_kills_the_judge_is_asked_twice_and_then_a_judge_error(
    client: JudgeClient, tmp_path: Path
) -> None:
    poison = tmp_path / "poison"
    with pytest.raises(JudgeError, match="judge actor is lost"):
        await ask(client, str(poison))
    assert poison.read_text() == "asked\nasked\n", "each asking may be paid for"
    assert (await ask(client, "clear")).value == 0.75, "the next question finds a judge again"
