"""Checkpoint folders that are whole or not there: safetensors and JSON, never pickle.

    <folder>/policy/            a Hugging Face folder: weights, config, tokenizer, processor
    <folder>/state.safetensors  master weights, optimizer moments, RNG
    <folder>/state.json         step, version, scale of the adapters, and the size of every other
                                file; written last

A folder is written beside its place, flushed to disk, and renamed. What a crash leaves behind is a
hidden temporary folder, or (on a failing disk) a folder whose files do not have the sizes that
state.json tells: both are recognised and never loaded.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from core.errors import ConfigError
from core.files import (
    draft_beside,
    file_sizes,
    flush_tree,
    put_folder_in_place,
    write_json_atomic,
    write_step,
)

logger = logging.getLogger(__name__)

_POLICY, _TENSORS, _STATE = "policy", "state.safetensors", "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """All that a learner needs beside the policy's weights to go on as if never stopped."""

    step: int
    """Optimizer steps done; the learning rate is a function of it."""
    version: int
    """Of the policy, as published to the rollout workers."""
    tensors: Mapping[str, torch.Tensor]
    """By name, e.g. "master/..", "exp_avg/..", "rng"."""
    lora_scale: float | None = None
    """What the adapters are multiplied by. None: there are none, or it was not written down."""


def save_checkpoint(
    folder: Path, *, state: TrainState, write_policy: Callable[[Path], None]
) -> None:
    """Write the folder whole; one that stands there already is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = draft_beside(folder)
    scratch.mkdir()
    try:
        (scratch / _POLICY).mkdir()
        with write_step("write", scratch / _POLICY):
            write_policy(scratch / _POLICY)
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        with write_step("write", scratch / _TENSORS):
            save_file(tensors, scratch / _TENSORS)
        sizes = file_sizes(scratch)
        flush_tree(scratch)
        numbers = {"step": state.step, "version": state.version, "lora_scale": state.lora_scale}
        write_json_atomic(scratch / _STATE, {**numbers, "files": sizes})
        put_folder_in_place(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


class CheckpointWriter:
    """Writes one checkpoint at a time, on a thread of its own, while training goes on.

    What it is given must not change any more: copies of the weights, in host memory.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def start(
        self, folder: Path, *, state: TrainState, write_policy: Callable[[Path], None]
    ) -> None:
        """Only after `wait`."""
        self._writing = self._thread.submit(
            save_checkpoint, folder, state=state, write_policy=write_policy
        )

    def wait(self) -> None:
        """Return when the last one is whole; raises what its writing ended with, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def load_checkpoint(folder: Path) -> TrainState:
    """Raises ConfigError when the checkpoint is missing or torn."""
    if (damage := find_damage(folder)) is not None:
        raise ConfigError(f"checkpoint {folder} {damage}; resume from an older one")
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return TrainState(
        step=state["step"],
        version=state["version"],
        tensors=load_file(folder / _TENSORS),
        lora_scale=state.get("lora_scale"),
    )


def policy_folder(folder: Path) -> Path:
    """The Hugging Face folder inside a checkpoint."""
    return folder / _POLICY


def find_damage(folder: Path) -> str | None:
    """Why the checkpoint cannot be used, in a few words; None when it is whole."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        expected = dict(state["files"])
    except FileNotFoundError:
        return "has no state.json, so its writing never ended"
    except (ValueError, KeyError, TypeError):
        return "has a state.json that cannot be read"
    found = file_sizes(folder)
    for name, size in expected.items():
        if found.get(name) != size:
            return f"is torn: {name} has {found.get(name, 0)} of {size} bytes"
    return None


def latest_checkpoint(root: Path) -> Path | None:
    """The last whole checkpoint below `root` by name; torn ones are skipped with a warning."""
    if not root.is_dir():
        return None
    for folder in sorted(root.iterdir(), reverse=True):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if (damage := find_damage(folder)) is None:
            return folder
        logger.warning("skipped checkpoint %s: it %s", folder, damage)
    return None


def prune_checkpoints(root: Path, *, keep: int) -> None:
    """Remove what is older, by name, than the last `keep` whole ones; a torn one counts as none."""
    folders = [f for f in sorted(root.iterdir()) if f.is_dir() and not f.name.startswith(".")]
    whole = [folder for folder in folders if find_damage(folder) is None]
    if len(whole) < keep:
        return
    for folder in folders[: folders.index(whole[-keep])]:
        shutil.rmtree(folder)
