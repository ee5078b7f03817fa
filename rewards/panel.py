"""A question to a language-model judge, its votes, and their mean.

In: a rubric, content (text, and images by reference), and a reader of the reply. Out: a Ballot:
the mean grades and what they took. Each vote is cached by who is asked (name and address: two
endpoints may serve different models under one name), by everything that the judge sees (the rubric,
the text, the image digests, the largest side) and by its number.

Several votes are averaged grade by grade: the mean estimates what one vote gives on average, so
scores stay comparable with those of a single vote, with less noise; a median of a coarse scale
would hide disagreement, which is reported as the spread. A grade that at least half of the votes
call not applicable is not applicable; votes that differ in that are as far apart as can be.

Faults have one owner each: the network, statuses and replies that are no verdict are the
Endpoint's to ask again (inside the chat model); nothing here or above asks again.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.chat_completions import ChatModel, ChatReply, Part
from core.errors import JudgeError, boundary
from core.protocols import ImageStore, Took
from core.records import ImageRef
from core.sections.judge import JudgeConfig
from rewards.pictures import judge_picture
from rewards.replies import refuse
from rewards.verdict_cache import Kept, VerdictCache, Vote

Grades = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    rubric: str
    content: tuple[str | ImageRef, ...]
    read: Callable[[str], tuple[Grades, str]]
    """(grades, rationale) of a reply. Raises JudgeError when it is no verdict."""
    schema: Mapping[str, Any] | None
    """What the reply must look like, for endpoints that decode by a schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    grades: Grades
    rationale: str
    took: Took


class Panel:
    """Belongs to the event loop that it is first used on."""

    def __init__(
        self,
        chat: ChatModel,
        *,
        images: ImageStore,
        config: JudgeConfig,
        cache: VerdictCache | None,
    ) -> None:
        """Without a cache every question is asked, and paid, anew."""
        self._chat = chat
        self._images = images
        self._config = config
        self._cache = cache
        # Some more than are in flight, so that the next questions are ready and few are held.
        self._room = asyncio.Semaphore(2 * config.max_in_flight)

    @property
    def name(self) -> str:
        return self._chat.name

    @property
    def spent_usd(self) -> float:
        """For all replies so far, refused ones too."""
        return self._chat.spent_usd

    async def ask(self, question: Question, *, votes: int | None = None) -> Ballot:
        """The mean of `votes` votes, by default `judge.votes`. Raises JudgeError when one of them
        cannot be had."""
        started = time.monotonic()
        numbers = range(votes or self._config.votes)
        kept = await asyncio.gather(*(self._vote(question, number=number) for number in numbers))
        paid = [one.vote for one in kept if not one.cached]
        grades, spread = mean_grades([one.vote.grades for one in kept])
        return Ballot(
            grades=grades,
            rationale=" | ".join(dict.fromkeys(one.vote.rationale for one in kept)),
            took=Took(
                cached=not paid,
                seconds=time.monotonic() - started,
                cost_usd=sum(vote.cost_usd for vote in paid),
                tokens=sum(vote.tokens for vote in paid),
                votes=len(kept),
                spread=spread,
            ),
        )

    async def _vote(self, question: Question, *, number: int) -> Kept:
        if self._cache is None:
            return Kept(vote=await self._ask_model(question), cached=False)
        key = self._key(question, number=number)
        return await self._cache.get_or_ask(key, lambda: self._ask_model(question))

    def _key(self, question: Question, *, number: int) -> str:
        content = [item if isinstance(item, str) else [item.sha256] for item in question.content]
        schema = question.schema if self._config.json_schema else None
        judge = [self.name, self._config.base_url.rstrip("/")]
        seen = [*judge, question.rubric, content, schema, self._config.max_side, number]
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    async def _ask_model(self, question: Question) -> Vote:
        async with self._room:
            return await self._ask_now(question)

    async def _ask_now(self, question: Question) -> Vote:
        content = await asyncio.to_thread(self._parts, question.content)
        spent: list[ChatReply] = []

        def read(reply: ChatReply) -> tuple[Grades, str]:
            spent.append(reply)
            if reply.finish_reason == "length":
                refuse("it was cut at judge.max_tokens")
            return question.read(reply.text)

        with boundary(JudgeError, f"asking {self.name}"):
            grades, rationale = await self._chat.complete(
                system=question.rubric,
                content=content,
                max_tokens=self._config.max_tokens,
                read=read,
                schema=question.schema if self._config.json_schema else None,
            )
        return Vote(
            grades=grades,
            rationale=rationale,
            tokens=sum(reply.prompt_tokens + reply.completion_tokens for reply in spent),
            cost_usd=sum(reply.cost_usd for reply in spent),
        )

    def _parts(self, content: Sequence[str | ImageRef]) -> list[Part]:
        return [
            item
            if isinstance(item, str)
            else judge_picture(self._images.get(item), max_side=self._config.max_side)
            for item in content
        ]


def mean_grades(votes: Sequence[Grades]) -> tuple[Grades, float]:
    """Grade by grade; and the largest difference between two votes in one grade."""
    means: dict[str, float | None] = {}
    spread = 0.0
    for name in votes[0]:
        values = [value for grades in votes if (value := grades[name]) is not None]
        applies = len(values) > len(votes) / 2
        means[name] = sum(values) / len(values) if applies else None
        if values:
            disagree = len(values) < len(votes)
            spread = max(spread, 1.0 if disagree else max(values) - min(values))
    return means, spread
