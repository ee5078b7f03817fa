"""Supervised fine-tuning in the learner's own engine: next-token loss on assistant turns only.

In: `TrainingSample`s, from a teacher's trajectories or from learners/sharegpt.py. Out: checkpoints
like the GRPO learner's, whose policy/ is what `policy.path` names next. The batch of a step is a
function of seed and step, so a run that stopped goes on from its last checkpoint as if it never
had; Ctrl-C saves first. Fails with ConfigError, FidelityError or LearnerError.
"""

import logging
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from core.config import Config
from core.errors import ConfigError, LearnerError, boundary
from core.files import clean_up
from core.protocols import ImageStore
from core.records import Sampling, TrainingSample, Trajectory
from envs.chat import ChatFormat
from learners.batch import build_micro_batch
from learners.checkpoint import (
    TrainState,
    find_damage,
    latest_checkpoint,
    policy_folder,
    prune_checkpoints,
    save_checkpoint,
)
from learners.engine import TrainEngine, cosine_lr
from learners.model import load_policy, plain_weights, save_policy
from learners.packing import plan_packs
from learners.restore import restore
from learners.samples import build_sample

logger = logging.getLogger(__name__)

WARMUP_SHARE = 0.02
"""Of all steps, as in the published recipe (arXiv 2603.28767)."""

PLAIN = Sampling(temperature=1.0, top_p=1.0, banned_ids=(), seed=0)
"""Fine-tuning teaches the plain distribution: no temperature, nothing banned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftStep:
    """What one optimizer step did."""

    step: int
    """1 for the first one."""
    total_steps: int
    loss: float
    """Mean over the step's assistant tokens, in nats."""
    lr: float
    num_tokens: int
    eval_loss: float | None
    """The same mean over the held-out samples, after the step; None: it was not measured."""


def teacher_samples(trajectories: Sequence[Trajectory]) -> list[TrainingSample]:
    """Trajectories to imitate. Raises FidelityError."""
    return [
        replace(build_sample(trajectory, advantage=1.0), sampling=PLAIN)
        for trajectory in trajectories
    ]


def run_sft(
    config: Config,
    samples: Sequence[TrainingSample],
    *,
    chat: ChatFormat,
    images: ImageStore,
    folder: Path,
    progress: Callable[[SftStep], None],
) -> Path:
    """Train for `sft.steps` steps with checkpoints in `folder`; the fine-tuned policy's folder."""
    if not samples:
        raise ConfigError("there is nothing to fine-tune on; sft.data gave no sample that fits")
    trained, heldout = split(samples, share=config.sft.eval_share, seed=config.run.seed)
    trainer = _Trainer(config, chat=chat, images=images, folder=folder, progress=progress)
    try:
        trainer.resume()
        while (step := trainer.step + 1) <= config.sft.steps:
            trainer.train(_draw(trained, config=config, step=step - 1))
            is_last = step == config.sft.steps
            evaluates = heldout and (is_last or step % config.sft.eval_every == 0)
            trainer.tell(eval_loss=trainer.evaluate(heldout) if evaluates else None)
            if step % config.train.checkpoint_every == 0:
                trainer.save()
        trainer.save()
    except KeyboardInterrupt:
        trainer.tell(eval_loss=None)  # of a step that is done: after a resume it is not done again
        trainer.save()
        raise
    finally:
        trainer.close()
    return policy_folder(trainer.checkpoint)


class _Trainer:
    """Policy, engine and checkpoints of one fine-tuning run."""

    def __init__(
        self,
        config: Config,
        *,
        chat: ChatFormat,
        images: ImageStore,
        folder: Path,
        progress: Callable[[SftStep], None],
    ) -> None:
        self._config = config
        self._chat = chat
        self._images = images
        self._folder = folder
        self._progress = progress
        self._untold: SftStep | None = None
        self._policy = load_policy(config)
        self._engine = TrainEngine(self._policy, config=config.learner)

    @property
    def step(self) -> int:
        return self._engine.step_count

    @property
    def checkpoint(self) -> Path:
        """The folder of the step that is done."""
        return self._folder / f"step_{self.step:06d}"

    def resume(self) -> None:
        clean_up(self._folder)
        last = latest_checkpoint(self._folder)
        if last is None:
            return
        state = restore(
            last, policy=self._policy, engine=self._engine, settings=self._config.learner
        )
        logger.info("fine-tuning goes on after step %s of %s", state.step, last)

    def train(self, samples: Sequence[TrainingSample]) -> None:
        """One optimizer step, which `tell` reports."""
        num_tokens = _count(samples)
        loss = 0.0
        with boundary(LearnerError, "fine-tuning"):
            for logprobs in self._logprobs(samples):
                part = -logprobs.sum() / num_tokens
                self._engine.backward(part)
                loss += part.item()
            lr = cosine_lr(
                self.step,
                base=self._config.sft.lr,
                warmup_steps=max(1, round(WARMUP_SHARE * self._config.sft.steps)),
                total_steps=self._config.sft.steps,
            )
            with _interrupts_wait():  # half an optimizer step is no state to save
                self._engine.step(lr=lr)
                self._untold = SftStep(
                    step=self.step,
                    total_steps=self._config.sft.steps,
                    loss=loss,
                    lr=lr,
                    num_tokens=num_tokens,
                    eval_loss=None,
                )

    def tell(self, *, eval_loss: float | None) -> None:
        """Report the last step, once."""
        with _interrupts_wait():
            done, self._untold = self._untold, None
            if done is not None:
                self._progress(replace(done, eval_loss=eval_loss))

    def evaluate(self, samples: Sequence[TrainingSample]) -> float:
        """Mean loss over the assistant's tokens of samples that are not trained on."""
        with boundary(LearnerError, "evaluation"), torch.no_grad():
            total = sum(-float(logprobs.sum()) for logprobs in self._logprobs(samples))
        return total / _count(samples)

    def _logprobs(self, samples: Sequence[TrainingSample]) -> Iterator[torch.Tensor]:
        """Of the assistant's tokens, pack by pack."""
        budget = self._config.learner.micro_batch_tokens
        for members in plan_packs(samples, max_tokens=budget, share_prefix=False):
            batch = build_micro_batch(members, chat=self._chat, images=self._images)
            logprobs, _ = self._engine.forward(batch.to(self._engine.device))
            yield logprobs

    def save(self) -> None:
        if find_damage(self.checkpoint) is None:
            return
        with boundary(LearnerError, "save"), self._engine.full_weights():
            save_checkpoint(
                self.checkpoint,
                state=TrainState(
                    step=self.step,
                    version=0,
                    tensors=self._engine.state_tensors(),
                    lora_scale=self._config.learner.lora_scale,
                ),
                write_policy=partial(
                    save_policy,
                    self._policy.lm,
                    base_path=self._config.policy.path,
                    weights=plain_weights(self._policy.lm),
                ),
            )
        prune_checkpoints(self._folder, keep=self._config.train.keep_checkpoints)

    def close(self) -> None:
        self._engine.close()


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """SIGINT and SIGTERM that come meanwhile do what they do at the end of it."""
    if threading.current_thread() is not threading.main_thread():  # which alone has handlers
        yield
        return
    came: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: came.append(number)) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        if came:
            signal.raise_signal(came[0])


def split(
    samples: Sequence[TrainingSample], *, share: float, seed: int
) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """Those to train on and those held out, the same ones in every start of a run."""
    chosen = random.Random(f"{seed}/held out").sample(
        range(len(samples)), int(share * len(samples))
    )
    heldout = set(chosen)
    return (
        [sample for number, sample in enumerate(samples) if number not in heldout],
        [sample for number, sample in enumerate(samples) if number in heldout],
    )


def _count(samples: Sequence[TrainingSample]) -> int:
    return sum(sum(sample.loss_mask) for sample in samples)


def _draw(samples: Sequence[TrainingSample], *, config: Config, step: int) -> list[TrainingSample]:
    """The batch of a step: epochs in seeded orders, one after another."""
    size = config.sft.batch_size
    places = [divmod(place, len(samples)) for place in range(step * size, (step + 1) * size)]
    return [
        samples[_order(len(samples), seed=config.run.seed, epoch=epoch)[index]]
        for epoch, index in places
    ]


@lru_cache(maxsize=2)  # a batch may reach from one epoch into the next
def _order(count: int, *, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}/{epoch}").sample(range(count), count)
