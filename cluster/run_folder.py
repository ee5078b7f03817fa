"""The folder of a run, seen before anything starts: is it finished, is it in the way?

runs/<name>/summary.json is written last, so it tells a run that has ended. Imports no engine.
"""

import json
from pathlib import Path

from core.errors import ConfigError

SUMMARY = "summary.json"
LEARNER_POLICY = Path("learner") / "policy"
"""Where a checkpoint holds the policy as a Hugging Face folder."""


def set_aside(folder: Path) -> Path | None:
    """Rename a run's folder to the first free <name>.N, so that a fresh run loses nothing."""
    if not folder.exists():
        return None
    number = 1
    while (other := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(other)
    return other


def steps_done(folder: Path) -> int | None:
    """Steps of a finished run, as its summary says; None when it is not finished, or stopped
    before its end (`train.budget_usd`)."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    return None if summary.get("stopped") else int(summary["steps"])


def policy_of_checkpoint(path: Path) -> Path:
    """The policy's folder in a checkpoint, or the folder itself when it is a policy."""
    for folder in (path / LEARNER_POLICY, path / LEARNER_POLICY.name, path):
        if (folder / "config.json").is_file():
            return folder
    raise ConfigError(
        f"the checkpoint {path} holds no policy (no config.json); give runs/<name>/checkpoints/"
        "step_NNNNNN or the folder of a Qwen3-VL model"
    )
