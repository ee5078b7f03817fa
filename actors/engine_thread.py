"""A thread that owns an engine: it steps while there is work, and runs commands between two steps.

In: commands (closures on the engine) and requests, from any thread. Out: a
`concurrent.futures.Future` for each. A command is atomic: no step runs meanwhile. When the engine
fails, the thread ends and everything that waits, and whatever is asked later, fails at once with
the same InfraError; nothing ever hangs. Knows nothing of vLLM.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from core.errors import GensearcherError, InfraError, boundary

logger = logging.getLogger(__name__)


class StepOutput(Protocol):
    request_id: str
    finished: bool


class StepEngine(Protocol):
    """What the thread needs of an engine (vLLM's LLMEngine has it)."""

    def has_unfinished_requests(self) -> bool: ...

    def step(self) -> Sequence[Any]:
        """One step; returns `StepOutput`s."""
        ...

    def abort_request(self, request_ids: list[str]) -> None: ...


E = TypeVar("E", bound=StepEngine)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Command(Generic[E]):
    run: Callable[[E], Any]
    future: "Future[Any]"
    request_id: str | None
    """Set: the future waits for the output of this request instead of for the command."""
    fatal: bool


class EngineThread(Generic[E]):
    def __init__(
        self, build: Callable[[], E], *, shutdown: Callable[[E], None], name: str = "engine"
    ) -> None:
        """Build the engine on its thread and wait for it. Raises InfraError when that fails."""
        self._name = name
        self._commands: queue.SimpleQueue[_Command[E] | None] = queue.SimpleQueue()
        self._requests: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._end_reason: GensearcherError | None = None
        ready = self._new_future()
        self._thread = threading.Thread(
            target=self._run, args=(build, shutdown, ready), name=name, daemon=True
        )
        self._thread.start()
        ready.result()

    @property
    def num_running(self) -> int:
        """Requests that have no output yet."""
        return len(self._requests)

    def call(self, command: Callable[[E], T], *, fatal: bool = False) -> "Future[T]":
        """Run `command` between two steps. `fatal`: its failure leaves the engine unusable."""
        future = self._new_future()
        self._commands.put(_Command(command, future, None, fatal))
        return future

    def request(self, request_id: str, add: Callable[[E], Any]) -> "Future[Any]":
        """Add a request with `add` and wait for its finished output. Cancel the future to abort."""
        future = self._new_future()
        future.add_done_callback(lambda done: self._abort(request_id) if done.cancelled() else None)
        self._commands.put(_Command(add, future, request_id, False))
        return future

    def check(self) -> None:
        """Raises InfraError when the engine is closed or has failed."""
        if self._end_reason is not None:
            raise self._end_reason

    def close(self) -> None:
        """Shut the engine down; whatever still waits fails. May be called twice."""
        self._commands.put(None)
        self._thread.join()

    def _new_future(self) -> "Future[Any]":
        """A future that is sure to be settled. Raises InfraError when the thread has ended."""
        future: Future[Any] = Future()
        with self._lock:
            self.check()
            self._waiting.add(future)
        return future

    def _abort(self, request_id: str) -> None:
        def abort(engine: E) -> None:
            if self._requests.pop(request_id, None) is not None:
                engine.abort_request([request_id])

        self._commands.put(_Command(abort, Future(), None, False))

    def _run(
        self, build: Callable[[], E], shutdown: Callable[[E], None], ready: "Future[Any]"
    ) -> None:
        engine: E | None = None
        try:
            with boundary(InfraError, self._name):
                engine = build()
                self._settle(ready)
                self._serve(engine)
        except GensearcherError as error:
            logger.error("%s ended: %s", self._name, error)
            self._end(error)
        finally:  # before the shutdown, which may take long: nobody waits for a dead engine
            self._end(InfraError(f"{self._name} is closed"))
            if engine is not None:
                shutdown(engine)

    def _serve(self, engine: E) -> None:
        while self._run_commands(engine, wait=not engine.has_unfinished_requests()):
            if not engine.has_unfinished_requests():
                continue
            for output in engine.step():
                if output.finished:
                    future = self._requests.pop(output.request_id, None)
                    if future is not None:
                        self._settle(future, result=output)

    def _run_commands(self, engine: E, *, wait: bool) -> bool:
        """Everything that is queued, at least one command if `wait`. False: time to close."""
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                return False
            self._execute(command, engine)
            wait = False

    def _execute(self, command: _Command[E], engine: E) -> None:
        if command.future.cancelled():
            self._settle(command.future)
            return
        try:
            with boundary(InfraError, self._name):
                result = command.run(engine)
        except GensearcherError as error:
            if command.fatal:
                raise  # ends the thread, which settles this future among all others
            self._settle(command.future, error=error)
            return
        if command.request_id is None:
            self._settle(command.future, result=result)
        else:
            self._requests[command.request_id] = command.future

    def _settle(
        self,
        future: "Future[Any]",
        *,
        result: Any = None,
        error: GensearcherError | None = None,
    ) -> None:
        with self._lock:
            self._waiting.discard(future)
        if not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _end(self, reason: GensearcherError) -> None:
        with self._lock:
            self._end_reason = self._end_reason or reason
            waiting, self._waiting = self._waiting, set()
        self._requests.clear()
        for future in waiting:
            self._settle(future, error=self._end_reason)
