"""`gensearcher sft`: imitation before reinforcement, on one node and without Ray.

Enters: a Config. Samples are the rows of `sft.data` (ShareGPT), or else episodes that the nano
world's scripted teacher plays with the same tools and the same episode loop as the policy.
Leaves: checkpoints under runs/<name>/sft/, a row per step in runs/<name>/sft.jsonl (a step that is
done again after a crash has two), and the folder to name as `policy.path` next. Raises ConfigError
and DataError for what the user can mend; Ctrl-C leaves a checkpoint.
"""

import asyncio
from pathlib import Path

import numpy as np
from rich.console import Console

from cluster.openers import Keys, open_toolbox, prepare_corpus
from cluster.run_folder import held_folder
from cluster.track.recorder import JsonLines
from core.config import Config, save_config
from core.errors import ConfigError
from core.protocols import ImageStore
from core.records import ImageRef, RolloutId, StopReason, TrainingSample, Trajectory, to_jsonable
from envs.chat import ChatFormat
from envs.episode import EpisodeLimits, run_episode
from envs.images import FileImageStore, decode_rgb
from envs.nano.teacher import TeacherPolicy, field_colour_of
from envs.prompts import system_prompt
from envs.tasks import open_train_tasks
from learners.sft import SftStep, run_sft, teacher_samples
from learners.sharegpt import load_sharegpt

STEPS = "sft.jsonl"
MAX_TEACHER_EPISODES = 256
"""More than that teach nothing new within the steps of a recipe."""


def fine_tune(config: Config, *, console: Console) -> Path:
    """Train `sft.steps` steps; returns the folder of the fine-tuned policy."""
    with held_folder(config.run_dir):
        return _fine_tune(config, config.run_dir.resolve(), console=console)


def _fine_tune(config: Config, folder: Path, *, console: Console) -> Path:
    images = FileImageStore(folder / "images")
    chat = ChatFormat.load(config.policy.path)
    save_config(config, folder / "config.yaml")
    with console.status("making samples"):
        samples = _samples(config, folder, chat=chat, images=images)
    console.print(f"{len(samples)} samples")

    steps = JsonLines(folder / STEPS)

    def note(step: SftStep) -> None:
        held = "" if step.eval_loss is None else f" held out {step.eval_loss:.4f}"
        console.print(
            f"step {step.step}/{step.total_steps} loss {step.loss:.4f}{held} lr {step.lr:.2e}"
        )
        steps.write(to_jsonable(step))
        steps.flush()

    try:
        return run_sft(
            config, samples, chat=chat, images=images, folder=folder / "sft", progress=note
        )
    finally:
        steps.close()


def _samples(
    config: Config, folder: Path, *, chat: ChatFormat, images: ImageStore
) -> list[TrainingSample]:
    if config.sft.data is not None:
        path, longest = Path(config.sft.data), config.rollout.max_context
        return load_sharegpt(path, chat=chat, images=images, max_tokens=longest)
    if config.tasks.source != "nano":
        raise ConfigError("sft.data: none is set; only the nano world has a teacher of its own")
    return teacher_samples(asyncio.run(teach(config, folder, chat=chat, images=images)))


async def teach(
    config: Config, folder: Path, *, chat: ChatFormat, images: ImageStore
) -> list[Trajectory]:
    """Episodes of the faultless teacher on training tasks, those with an answer."""

    def field_colour(ref: ImageRef) -> str:
        return field_colour_of(np.asarray(decode_rgb(images.get(ref))))

    prepare_corpus(config, folder)
    tasks = open_train_tasks(config, images=images)
    limits = EpisodeLimits(
        max_turns=config.rollout.max_turns,
        max_tokens_per_turn=config.rollout.max_tokens_per_turn,
        max_context=config.rollout.max_context,
        max_images_per_search=config.tools.max_images_per_search,
    )
    policy = TeacherPolicy(chat, field_colour=field_colour, seed=config.run.seed)
    toolbox = open_toolbox(config, folder, Keys())
    wanted = min(MAX_TEACHER_EPISODES, config.sft.steps * config.sft.batch_size)
    try:
        played = [
            await run_episode(
                tasks.task(ordinal),
                rollout_id=RolloutId(ordinal=ordinal, index=0),
                policy=policy,
                toolbox=toolbox,
                images=images,
                chat=chat,
                system_prompt=system_prompt(config.policy.system_prompt, toolbox.specs),
                limits=limits,
                temperature=1.0,
                top_p=1.0,
                seed=config.run.seed,
            )
            for ordinal in range(wanted)
        ]
    finally:
        await toolbox.close()
    return [one for one in played if one.stop_reason is StopReason.ANSWER]
