"""Providers in an order of fall-back: the next is asked when one is down.

In: named providers of one Protocol. Out: the first answer, with what all of them took for it.
Raises ToolError when none answered. A provider that failed `failures_to_rest` times in a row rests
for `rest_s` and is passed over meanwhile; then one call tries it, and its answer ends the rest.
While all rest, all are asked as if none did: passing over the last one would only lose the call.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from core.errors import ToolError
from core.records import FoundImage
from envs.provider import Fetched, ImageSearch, Page, PageReader, SearchHit, TextSearch

logger = logging.getLogger(__name__)


class Versioned(Protocol):
    @property
    def version(self) -> str: ...


P = TypeVar("P", bound=Versioned)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestLimits:
    failures_to_rest: int = 3
    rest_s: float = 30.0


class _Member(Generic[P]):
    """A provider and its circuit breaker."""

    def __init__(
        self, name: str, provider: P, *, limits: RestLimits, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.provider = provider
        self._limits = limits
        self._clock = clock
        self._in_a_row = 0
        self._rests_until: float | None = None
        self._is_on_trial = False

    @property
    def is_resting(self) -> bool:
        """True as well while the one call that tries it again is out."""
        if self._rests_until is None:
            return False
        return self._is_on_trial or self._clock() < self._rests_until

    async def ask(self, call: Callable[[P], Awaitable[Fetched[T]]]) -> Fetched[T]:
        """Raises ToolError, and remembers it."""
        on_trial = self._rests_until is not None and not self.is_resting
        self._is_on_trial |= on_trial
        try:
            found = await call(self.provider)
        except ToolError as error:
            self._failed(error)
            raise
        finally:
            if on_trial:
                self._is_on_trial = False
        if self._rests_until is not None:
            logger.warning("%s answers again", self.name)
        self._in_a_row, self._rests_until = 0, None
        return found

    def _failed(self, error: ToolError) -> None:
        self._in_a_row += 1
        if self._in_a_row >= self._limits.failures_to_rest:
            rest_s = self._limits.rest_s
            self._rests_until = self._clock() + rest_s
            logger.warning(
                "%s failed %d times in a row and rests for %g s: %s",
                *(self.name, self._in_a_row, rest_s, error),
            )


class Chain(Generic[P]):
    """What the three chains share."""

    def __init__(
        self,
        providers: Sequence[tuple[str, P]],
        *,
        limits: RestLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        count: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`providers`: names and providers, the first choice first. `count` is told of every
        "provider_failures/NAME" and "passed_over/NAME"."""
        self._count = count
        self._members = [
            _Member(name, provider, limits=limits or RestLimits(), clock=clock)
            for name, provider in providers
        ]

    @property
    def version(self) -> str:
        """Of all its providers: for a corpus on disk it changes with what is in it."""
        return "+".join(member.provider.version for member in self._members)

    @property
    def resting(self) -> tuple[str, ...]:
        """Providers that are passed over now."""
        return tuple(member.name for member in self._members if member.is_resting)

    async def _first(
        self,
        call: Callable[[P], Awaitable[Fetched[T]]],
        *,
        is_answer: Callable[[T], bool] = lambda value: True,
    ) -> Fetched[T]:
        """The first answer; the last of those that are none, when every provider gave one."""
        calls, cost_usd = 0, 0.0
        other: Fetched[T] | None = None
        failures: list[ToolError] = []
        for member in self._awake():
            try:
                found = await member.ask(call)
            except ToolError as error:
                self._count(f"provider_failures/{member.name}")
                failures.append(error)
                calls += 1
                continue
            calls, cost_usd = calls + found.upstream_calls, cost_usd + found.cost_usd
            other = replace(found, upstream_calls=calls, cost_usd=cost_usd)
            if is_answer(found.value):
                return other
        if failures or other is None:
            raise _summary(failures)
        return other

    def _awake(self) -> list[_Member[P]]:
        awake = [member for member in self._members if not member.is_resting]
        if not awake:
            return self._members
        for member in self._members:
            if member.is_resting:
                self._count(f"passed_over/{member.name}")
        return awake


def _summary(failures: Sequence[ToolError]) -> ToolError:
    """Worth another try if one of them is."""
    return ToolError(
        "; ".join(map(str, failures)) or "there is no provider",
        retryable=any(error.retryable for error in failures),
        error_type=failures[-1].error_type if failures else "",
    )


class TextChain(Chain[TextSearch]):
    """Implements envs.provider.TextSearch."""

    async def search(self, query: str, *, k: int) -> Fetched[tuple[SearchHit, ...]]:
        return await self._first(lambda provider: provider.search(query, k=k))


class ImageChain(Chain[ImageSearch]):
    """Implements envs.provider.ImageSearch."""

    async def image_search(self, query: str, *, k: int) -> Fetched[tuple[FoundImage, ...]]:
        return await self._first(lambda provider: provider.image_search(query, k=k))


class PageChain(Chain[PageReader]):
    """Implements envs.provider.PageReader.

    The next reader is asked also when one knows of no such page: addresses of a corpus mean nothing
    to a reader of the web, and some hosts let one reader in and not another.
    """

    async def page(self, url: str) -> Fetched[Page | None]:
        return await self._first(
            lambda provider: provider.page(url), is_answer=lambda page: page is not None
        )
