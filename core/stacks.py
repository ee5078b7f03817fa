"""Where every process of a run stands, when nothing moves any more.

Each process of a run answers: a thread of its own looks whether somebody asks, through a file in
the run's folder, and then writes the stacks of its threads and of its waiting asyncio tasks beside
it. So a process that is busy, blocked, or on another node answers too; one that is dead does not.

    answer_for_stacks(run_dir, "learner")      # in each process, once
    write_stall(run_dir, "nothing moved ...")  # in the controller: -> run_dir/stall.txt
"""

import asyncio
import gc
import os
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

FOLDER = "stacks"
ASKED = "asked"
STALL = "stall.txt"
LOOK_EVERY_S = 1.0
WAIT_S = 4.0
"""For the others' answers."""

_answering: set[Path] = set()


def answer_for_stacks(run_dir: Path, name: str) -> None:
    """Begin to answer; a second call in the same process changes nothing."""
    folder = run_dir.resolve() / FOLDER
    if folder not in _answering:
        _answering.add(folder)
        args = (folder, name, _last_asked(folder))
        threading.Thread(target=_answer, args=args, name="stacks", daemon=True).start()


def write_stall(run_dir: Path, what: str, *, wait_s: float = WAIT_S) -> Path:
    """Ask every process of the run, and put what they say into one file. Blocks `wait_s`."""
    folder = run_dir.resolve() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.txt"):
        old.unlink()
    (folder / ASKED).touch()
    time.sleep(wait_s)
    answers = sorted(folder.glob("*.txt"))
    parts = [what, _titled("controller", stacks_of_this_process())]
    parts += [_titled(path.stem, path.read_text(encoding="utf-8")) for path in answers]
    path = run_dir / STALL
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def stacks_of_this_process() -> str:
    """Threads first, then the asyncio tasks that wait, equal ones once."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = [
        f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    ]
    waiting = Counter(_awaits(task) for task in _unfinished_tasks())
    tasks = [f"{number} x {awaits}" for awaits, number in waiting.most_common()]
    return "\n".join(threads + tasks)


def _last_asked(folder: Path) -> int:
    """0: never."""
    try:
        return (folder / ASKED).stat().st_mtime_ns
    except OSError:
        return 0


def _answer(folder: Path, name: str, answered: int) -> None:
    while True:
        time.sleep(LOOK_EVERY_S)
        if (asked := _last_asked(folder)) != answered:
            answered = asked
            path = folder / f"{name}-{socket.gethostname()}-{os.getpid()}.txt"
            draft = path.with_suffix(".draft")
            draft.write_text(stacks_of_this_process(), encoding="utf-8")
            draft.rename(path)


def _unfinished_tasks() -> list["asyncio.Task[object]"]:
    """Of every loop of this process, whichever thread it runs on."""
    # By type(): isinstance would wake lazy objects up.
    tasks = [thing for thing in gc.get_objects() if issubclass(type(thing), asyncio.Task)]
    return [task for task in tasks if not task.done()]


def _awaits(task: "asyncio.Task[object]") -> str:
    """The chain of coroutines, outermost first, e.g. "run_group (groups.py:31) > run (..)"."""
    places: list[str] = []
    awaited: object = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        code = frame.f_code
        places.append(f"{code.co_name} ({Path(code.co_filename).name}:{frame.f_lineno})")
        awaited = getattr(awaited, "cr_await", None)
    return "task " + " > ".join(places)


def _titled(title: str, text: str) -> str:
    return f"== {title} ==\n{text}"
