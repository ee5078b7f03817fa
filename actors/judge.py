"""The judge as a Ray actor, and its client.

In: a function that makes a `Judge` where the actor runs (it may need files and keys there).
Out: a `JudgeClient`, which is a `Judge`. The judge's own errors pass through unchanged. The actor
restarts when it dies: the client waits until it is up, for `deadline_s` at most, and asks once
more. A question that is lost twice is a JudgeError: it may be what kills the actor, and what a
paid judge said to it is lost every time. Verdicts that had arrived are in the judge's cache.
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.opened import Opened
from core.errors import GensearcherError, JudgeError
from core.failure_policy import Action, Budget, Event, Fault, Part, decide
from core.protocols import ImageVerdict, Judge, TextVerdict
from core.records import Answer, ImageRef, Task

logger = logging.getLogger(__name__)

DEADLINE_S: Final = 60.0
"""Longer than Ray needs to find out that a node is gone (over 30 s by default)."""
RETRY_S: Final = 0.5
ASKED_AGAIN: Final = Budget(times=1)
"""Losses of one question."""
MAX_CONCURRENCY: Final = 1000


class JudgeActor:
    """A judge in an async Ray actor; many verdicts are under way at once."""

    def __init__(self, make_judge: Callable[[], Judge]) -> None:
        """`make_judge` is called again at every restart."""
        self._opened = Opened(make_judge)
        self._start = secrets.token_hex(8)

    @property
    def _judge(self) -> Judge:
        return self._opened.value

    async def describe(self) -> tuple[str, str]:
        return self._judge.name, self._judge.prompt_sha

    async def judge_image(self, task: Task, image: ImageRef) -> ImageVerdict:
        return await self._judge.judge_image(task=task, image=image)

    async def judge_text(self, task: Task, answer: Answer) -> TextVerdict:
        return await self._judge.judge_text(task=task, answer=answer)

    async def spent_usd(self) -> tuple[str, float]:
        """Since its last start, and a name of that."""
        return self._start, await self._judge.spent_usd()


class JudgeClient:
    """Implements core.protocols.Judge over a `JudgeActor`."""

    def __init__(
        self, handle: Any, *, name: str, prompt_sha: str, deadline_s: float = DEADLINE_S
    ) -> None:
        self._handle = handle
        self._name = name
        self._prompt_sha = prompt_sha
        self._deadline_s = deadline_s
        self._spent_usd: dict[str, float] = {}
        """By start of the actor."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def prompt_sha(self) -> str:
        return self._prompt_sha

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        verdict: ImageVerdict = await self._ask("judge_image", task, image)
        return verdict

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        verdict: TextVerdict = await self._ask("judge_text", task, answer)
        return verdict

    async def spent_usd(self) -> float:
        """What an actor spent between its last answer to this and its death is not known."""
        start, spent_usd = await self._ask("spent_usd")
        self._spent_usd[start] = spent_usd
        return sum(self._spent_usd.values())

    async def _ask(self, method: str, *args: Any) -> Any:
        for times in itertools.count(1):
            try:
                return await getattr(self._handle, method).remote(*args)
            except RayTaskError as error:
                if isinstance(error.cause, GensearcherError):
                    raise error.cause from None
                raise JudgeError(f"{method}: {error.cause!r}", retryable=False) from error
            except RayActorError as error:
                lost = Event(part=Part.VERDICT, fault=Fault.LOST, times=times)
                if decide(lost, budget=ASKED_AGAIN) is not Action.RETRY:
                    raise JudgeError(f"{method}: the judge actor is lost: {error}") from error
                logger.warning("%s: the judge actor is away, asking again when it is up", method)
            await self._wait_until_up()

    async def _wait_until_up(self) -> None:
        give_up_s = time.monotonic() + self._deadline_s
        while True:
            try:
                await self._handle.describe.remote()
                return
            except RayActorError as error:
                if time.monotonic() > give_up_s:
                    raise JudgeError(f"the judge actor is lost: {error}") from error
            await asyncio.sleep(RETRY_S)


def start_judge(make_judge: Callable[[], Judge], *, num_cpus: float) -> tuple[Any, JudgeClient]:
    """Start the actor and wait for it: (handle, client). Its own start-up errors pass through.

    How many questions are under way is the judge's own business (`judge.max_in_flight`); those
    that its cache answers must not wait behind them.
    """
    actor = ray.remote(JudgeActor).options(
        num_cpus=num_cpus, max_restarts=-1, max_concurrency=MAX_CONCURRENCY
    )
    handle = actor.remote(make_judge)
    try:
        name, prompt_sha = ray.get(handle.describe.remote())
    except RayTaskError as error:
        if isinstance(error.cause, GensearcherError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise JudgeError(f"the judge actor did not start: {error}", retryable=False) from error
    return handle, JudgeClient(handle, name=name, prompt_sha=prompt_sha)
