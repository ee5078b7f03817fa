"""The engine's thread: commands between steps, requests in flight, and how it fails."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from actors.engine_thread import EngineThread
from core.errors import InfraError

WAIT_S = 60.0


@dataclass
class Output:
    request_id: str
    finished: bool = True


class CountdownEngine:
    """A request is done after so many steps. `fail_at`: the step that raises."""

    def __init__(self, *, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.left: dict[str, int] = {}
        self.steps = 0
        self.events: list[tuple[Any, ...]] = []

    def add(self, request_id: str, steps: int) -> None:
        self.left[request_id] = steps

    def has_unfinished_requests(self) -> bool:
        return bool(self.left)

    def step(self) -> list[Output]:
        self.steps += 1
        self.events.append(("step", tuple(self.left)))
        if self.steps == self.fail_at:
            raise RuntimeError("Encoder cache miss")
        time.sleep(0.001)
        self.left = {name: steps - 1 for name, steps in self.left.items()}
        done = [name for name, steps in self.left.items() if steps == 0]
        for name in done:
            del self.left[name]
        return [Output(name) for name in done]

    def abort_request(self, request_ids: list[str]) -> None:
        self.events.append(("abort", *request_ids))
        for name in request_ids:
            self.left.pop(name, None)


def start(engine: CountdownEngine) -> EngineThread[CountdownEngine]:
    return EngineThread(lambda: engine, shutdown=lambda one: one.events.append(("shutdown",)))


@contextmanager
def held(thread: EngineThread[CountdownEngine]) -> Iterator[None]:
    """Takes no step inside: what is asked for there begins together, however slow the caller."""
    hold = threading.Event()
    thread.call(lambda one: hold.wait(WAIT_S))
    yield
    hold.set()


def test_requests_run_side_by_side_and_each_gets_its_own_output() -> None:
    engine = CountdownEngine()
    thread = start(engine)
    with held(thread):
        futures = {
            name: thread.request(name, lambda one, name=name, n=n: one.add(name, n))
            for name, n in (("short", 2), ("long", 30))
        }

    assert futures["short"].result(WAIT_S).request_id == "short"
    assert futures["long"].result(WAIT_S).request_id == "long"
    assert thread.num_running == 0
    assert any(len(names) == 2 for kind, *rest in engine.events for names in rest if kind == "step")
    thread.close()
    assert engine.events[-1] == ("shutdown",)


def test_a_command_runs_between_two_steps_under_running_requests() -> None:
    engine = CountdownEngine()
    thread = start(engine)
    future = thread.request("a", lambda one: one.add("a", 50))

    steps_seen = thread.call(lambda one: one.events.append(("command",)) or one.steps).result(
        WAIT_S
    )

    future.result(WAIT_S)
    assert engine.events.index(("command",)) == steps_seen
    assert engine.steps == 50
    thread.close()


def test_a_failed_step_fails_all_that_wait_at_once_and_all_that_comes_later() -> None:
    thread = start(CountdownEngine(fail_at=3))
    with held(thread):
        futures = [thread.request(name, lambda one, name=name: one.add(name, 9)) for name in "abc"]

    for future in futures:
        with pytest.raises(InfraError, match="Encoder cache miss"):
            future.result(WAIT_S)
    with pytest.raises(InfraError, match="Encoder cache miss"):
        thread.request("d", lambda one: one.add("d", 1))
    with pytest.raises(InfraError, match="Encoder cache miss"):
        thread.check()
    thread.close()


def test_a_failed_command_fails_alone() -> None:
    thread = start(CountdownEngine())

    with pytest.raises(InfraError, match="ZeroDivisionError"):
        thread.call(lambda one: 1 // 0).result(WAIT_S)
    thread.check()
    with pytest.raises(InfraError, match="ZeroDivisionError"):
        thread.request("a", lambda one: 1 // 0).result(WAIT_S)
    assert thread.call(lambda one: one.steps).result(WAIT_S) == 0
    thread.close()


def test_a_fatal_command_ends_the_engine_before_anyone_is_told() -> None:
    """Who hears of the failure must find the engine dead, however long its shutdown takes."""
    thread = EngineThread(CountdownEngine, shutdown=lambda one: time.sleep(0.2))
    running = thread.request("a", lambda one: one.add("a", 10**9))

    with pytest.raises(InfraError, match="ZeroDivisionError"):
        thread.call(lambda one: 1 // 0, fatal=True).result(WAIT_S)
    with pytest.raises(InfraError, match="ZeroDivisionError"):
        thread.check()
    with pytest.raises(InfraError, match="ZeroDivisionError"):
        running.result(WAIT_S)
    thread.close()


def test_an_engine_that_does_not_start_says_why() -> None:
    def build() -> CountdownEngine:
        raise OSError("no such folder")

    with pytest.raises(InfraError, match="no such folder"):
        EngineThread(build, shutdown=lambda one: None)


def test_closing_fails_what_still_runs() -> None:
    thread = start(CountdownEngine())
    future = thread.request("a", lambda one: one.add("a", 10**9))
    thread.close()

    with pytest.raises(InfraError, match="closed"):
        future.result(WAIT_S)
    with pytest.raises(InfraError, match="closed"):
        thread.call(lambda one: None)
    thread.close()


async def test_cancelling_takes_the_request_out_of_the_engine() -> None:
    engine = CountdownEngine()
    thread = start(engine)
    future = asyncio.wrap_future(thread.request("a", lambda one: one.add("a", 10**9)))
    await asyncio.wrap_future(thread.call(lambda one: None))
    future.cancel()
    await asyncio.sleep(0)

    assert (
        await asyncio.wrap_future(thread.call(lambda one: one.has_unfinished_requests())) is False
    )
    assert ("abort", "a") in engine.events
    assert thread.num_running == 0
    thread.close()


def test_a_request_cancelled_before_it_was_added_never_enters() -> None:
    engine = CountdownEngine()
    thread = start(engine)
    with held(thread):
        future = thread.request("a", lambda one: one.add("a", 5))
        assert future.cancel()

    assert thread.call(lambda one: dict(one.left)).result(WAIT_S) == {}
    thread.close()
