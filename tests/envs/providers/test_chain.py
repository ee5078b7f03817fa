"""Fall-back and rest of an ordered list of providers, with a clock of the test's own."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest

from core.errors import ToolError
from envs.provider import Fetched, Page, SearchHit
from envs.providers.chain import PageChain, RestLimits, TextChain

HIT = SearchHit(url="https://a.test/", title="Torvi", snippet="founded 47")
LIMITS = RestLimits(failures_to_rest=2, rest_s=10.0)


@dataclass
class Source:
    """A provider of everything that is up or down as the test says."""

    name: str
    is_down: bool = False
    knows_page: bool = True
    events: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        return self.name

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        self._ask(query)
        return Fetched(value=(HIT,), provider=self.name, upstream_calls=1, cost_usd=0.5)

    async def page(self, url: str) -> Fetched[Page | None]:
        self._ask(url)
        page = Page(url=url, title="", text=self.name) if self.knows_page else None
        return Fetched(value=page, provider=self.name, upstream_calls=1, cost_usd=0.5)

    def _ask(self, what: str) -> None:
        self.events.append(what)
        if self.is_down:
            raise ToolError(f"{self.name} is down", error_type="Down")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def text_chain(
    *sources: Source, clock: Clock | None = None, counted: list[str] | None = None
) -> TextChain:
    named = [(source.name, source) for source in sources]
    count = (counted if counted is not None else []).append
    return TextChain(named, limits=LIMITS, clock=clock or Clock(), count=count)


async def test_the_first_that_answers_is_the_only_one_asked() -> None:
    first, second = Source("serper"), Source("brave")

    found = await text_chain(first, second).search("q", k=1)

    assert (found.provider, found.upstream_calls, found.cost_usd) == ("serper", 1, 0.5)
    assert (first.events, second.events) == (["q"], [])


async def test_the_next_is_asked_when_one_is_down_and_all_that_it_took_is_counted() -> None:
    counted: list[str] = []
    chain = text_chain(Source("serper", is_down=True), Source("brave"), counted=counted)

    found = await chain.search("q", k=1)

    assert found.value == (HIT,)
    assert (found.provider, found.upstream_calls, found.cost_usd) == ("brave", 2, 0.5)
    assert counted == ["provider_failures/serper"]


async def test_when_none_answers_the_error_names_them_all() -> None:
    chain = text_chain(Source("serper", is_down=True), Source("brave", is_down=True))

    with pytest.raises(ToolError, match="serper is down; brave is down") as caught:
        await chain.search("q", k=1)
    assert caught.value.retryable


async def test_one_that_fails_again_and_again_rests_and_comes_back_by_one_trial() -> None:
    clock, first, second = Clock(), Source("serper", is_down=True), Source("brave")
    counted: list[str] = []
    chain = text_chain(first, second, clock=clock, counted=counted)
    for _ in range(5):
        await chain.search("q", k=1)
    assert Counter(counted) == {"provider_failures/serper": 2, "passed_over/serper": 3}
    assert len(first.events) == LIMITS.failures_to_rest
    assert chain.resting == ("serper",)

    clock.now = 11.0
    await chain.search("trial", k=1)
    await chain.search("q", k=1)
    assert first.events[2:] == ["trial"], "a trial that fails begins another rest"

    clock.now, first.is_down = 22.0, False
    found = [(await chain.search("q", k=1)).provider for _ in range(2)]
    assert found == ["serper", "serper"]
    assert chain.resting == ()


async def test_only_one_call_at_a_time_is_the_trial() -> None:
    clock, second = Clock(), Source("brave")
    first = Source("serper", is_down=True)
    chain = text_chain(first, second, clock=clock)
    for _ in range(2):
        await chain.search("q", k=1)
    clock.now, first.is_down = 11.0, False
    gate = asyncio.Event()
    answer = first.search

    async def slow(query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        await gate.wait()
        return await answer(query, k=k)

    first.search = slow  # type: ignore[method-assign]
    trial = asyncio.create_task(chain.search("trial", k=1))
    await asyncio.sleep(0)
    assert (await chain.search("q", k=1)).provider == "brave"
    gate.set()
    assert (await trial).provider == "serper"


async def test_a_trial_that_is_cancelled_leaves_room_for_the_next() -> None:
    clock, first = Clock(), Source("serper", is_down=True)
    chain = text_chain(first, Source("brave"), clock=clock)
    for _ in range(2):
        await chain.search("q", k=1)
    clock.now, first.is_down = 11.0, False
    answer = first.search

    async def never(query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        await asyncio.Event().wait()
        raise AssertionError("not reached")

    first.search = never  # type: ignore[method-assign]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(chain.search("trial", k=1), timeout=0.05)
    first.search = answer  # type: ignore[method-assign]
    assert (await chain.search("q", k=1)).provider == "serper"


async def test_while_all_rest_all_are_asked_all_the_same() -> None:
    only = Source("serper", is_down=True)
    chain = text_chain(only)
    for _ in range(4):
        with pytest.raises(ToolError):
            await chain.search("q", k=1)
    only.is_down = False
    assert (await chain.search("q", k=1)).value == (HIT,)


async def test_a_page_that_one_reader_does_not_know_is_asked_of_the_next() -> None:
    jina, local = Source("jina", knows_page=False), Source("local")
    chain = PageChain([("jina", jina), ("local", local)])
    found = await chain.page("p0001")
    assert found.value is not None
    assert (found.value.text, found.upstream_calls) == ("local", 2)

    local.knows_page = False
    found = await chain.page("p0001")
    assert (found.value, found.provider) == (None, "local")


async def test_no_such_page_is_not_said_while_a_reader_that_may_know_it_is_down() -> None:
    chain = PageChain(
        [("jina", Source("jina", is_down=True)), ("local", Source("local", knows_page=False))]
    )
    with pytest.raises(ToolError, match="jina is down"):
        await chain.page("https://a.test/")


def test_the_version_is_made_of_those_of_its_providers() -> None:
    assert text_chain(Source("serper"), Source("brave")).version == "serper+brave"
