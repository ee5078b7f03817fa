"""The folder of a run, seen before anything starts: is it finished, is it in the way, is it ours?

runs/<name>/summary.json is written last, so it tells a run that has ended. Imports no engine.
"""

import fcntl
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
LOCK = ".lock"
LEARNER_POLICY = Path("learner") / "policy"
"""Where a checkpoint holds the policy as a Hugging Face folder."""


def make_folder(folder: Path, *, named: str) -> None:
    """Before work that ends in files there. Raises ConfigError for one that cannot be written;
    `named` is what the user called it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # tried, because rights do not tell all
    except OSError as error:
        message = f"{folder} cannot be written ({error.strerror})"
        raise ConfigError(f"{message}; set {named} to a folder that can be") from error


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """The folder, made if need be, is this process's own: two would write over each other's files
    and pay twice. However a holder dies, the kernel lets go. Raises ConfigError."""
    make_folder(folder, named="run.root, or --out of an evaluation,")
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder} is in use by another process; wait for it, or take another name"
            ) from error
        except OSError as error:
            logger.warning("%s: nobody sees that it is in use: %s", folder, error)
        yield


def set_aside(folder: Path) -> Path | None:
    """Rename a run's folder to the first free <name>.N, so that a fresh run loses nothing. Raises
    ConfigError while the run is at work."""
    if not folder.exists():
        return None
    number = 1
    while (other := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    with held_folder(folder):
        folder.rename(other)
    return other


def steps_done(folder: Path) -> int | None:
    """Steps of a finished run, as its summary says; None when it is not finished, or stopped
    before its end (`train.budget_usd`). Raises DataError."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return None if summary.get("stopped") else int(summary["steps"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no summary of a run ({error!r}); remove the file, and the run goes on from "
            "its last checkpoint"
        ) from error


def policy_of_checkpoint(path: Path) -> Path:
    """The policy's folder in a checkpoint, or the folder itself when it is a policy."""
    for folder in (path / LEARNER_POLICY, path / LEARNER_POLICY.name, path):
        if (folder / "config.json").is_file():
            return folder
    raise ConfigError(
        f"the checkpoint {path} holds no policy (no config.json); give runs/<name>/checkpoints/"
        "step_NNNNNN or the folder of a Qwen3-VL model"
    )
