"""One GRPO step, from scored groups to new weights. Implements core.protocols.Learner.

    group -> advantage per member -> TrainingSample -> pack -> log-probs -> loss -> step

`begin` goes as far as the loss with groups that are there early; `update` takes the step.

In: `Group`s with their trajectories, and an `ImageStore` that holds their images. Out: a
`LearnerReport`, the weights as a `WeightUpdate`, checkpoints. Fails with FidelityError when the
learner would train on something else than the rollout saw, LearnerError when the step fails. A
batch that teaches nothing (no group has two different scores) leaves version and weights alone and
reports num_samples == 0.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from core.config import Config
from core.errors import LearnerError, boundary
from core.protocols import ImageStore
from core.records import Group, LearnerReport, RolloutId, TrainingSample, WeightUpdate
from envs.chat import ChatFormat
from learners import peers
from learners.advantage import NoSignal, advantages_of, whiten
from learners.batch import MicroBatch, build_micro_batch
from learners.checkpoint import CheckpointWriter, TrainState
from learners.engine import TrainEngine, warmup_lr
from learners.loss import TokenTargets, TokenTrace, policy_loss, summarise
from learners.model import (
    adapters,
    host_copy,
    load_policy,
    load_reference,
    plain_weights,
    save_policy,
)
from learners.objectives.aggregation import normaliser
from learners.packing import plan_packs
from learners.publish import WeightPublisher
from learners.restore import restore
from learners.samples import build_sample


class Pass(NamedTuple):
    """What forward and backward of one pack leave behind."""

    loss: float
    """Its sum, not yet divided by the normaliser."""
    trace: TokenTrace
    images: int
    """Places where one stands."""
    encoded: int
    """Different images, which the vision tower saw."""


@dataclass(slots=True)
class _Begun:
    """Groups of the next update whose gradients are there already."""

    ordinals: set[int] = field(default_factory=set)
    passes: list[Pass] = field(default_factory=list)


class GrpoLearner:
    """Holds the policy being trained; `version` counts the updates that changed it."""

    def __init__(
        self,
        config: Config,
        *,
        chat: ChatFormat,
        images: ImageStore,
        store: Callable[[np.ndarray], Any] = np.copy,
    ) -> None:
        """`store` takes each array that `publish` makes, since its memory is used again."""
        self._config = config
        self._settings = config.learner
        self._chat = chat
        self._images = images
        self._policy = load_policy(config)
        self._engine = TrainEngine(self._policy, config=self._settings)
        self._publisher = WeightPublisher(
            dtype=config.policy.dtype if config.learner.lora_rank is None else "float32",
            mode=config.learner.broadcast,
            snapshot_every=config.learner.snapshot_every,
            store=store,
        )
        self._writer = CheckpointWriter()
        self._reference = load_reference(config) if self._settings.kl_coef else None
        self._begun = _Begun()
        self.version = 0

    def begin(self, groups: Sequence[Group]) -> None:
        """Add the gradients of some groups of the next `update`, while its others still play.

        Does nothing where that update has to see all its groups before any gradient.
        """
        in_parts = self._settings.updates_per_step > 1 or peers.num_learners() > 1
        if in_parts or self._config.reward.normalise == "per_part":
            return
        with boundary(LearnerError, "update"):
            samples, _ = select_samples(groups, config=self._config)
            self._begun.passes += self._accumulate(self._plan(samples), anchor=None)
            self._begun.ordinals |= {group.task.ordinal for group in groups}

    def update(self, groups: Sequence[Group]) -> LearnerReport:
        started = time.perf_counter()
        with boundary(LearnerError, "update"):
            begun, self._begun = self._begun, _Begun()
            strangers = begun.ordinals - {group.task.ordinal for group in groups}
            if strangers:
                message = f"groups {sorted(strangers)} were begun, but are not of this update"
                raise LearnerError(message, retryable=False)
            samples, metrics = select_samples(groups, config=self._config)
            if samples:
                metrics |= self._train(samples, begun)
                self.version += 1
        return LearnerReport(
            version=self.version,
            metrics={f"learner/{name}": value for name, value in metrics.items()},
            seconds=time.perf_counter() - started,
            num_samples=len(samples),
            num_tokens=sum(sum(sample.loss_mask) for sample in samples),
        )

    def publish(self) -> tuple[WeightUpdate, tuple[Any, ...]]:
        """All weights, the tied head among them, in the rollout's dtype; of a policy with adapters
        these alone, in float32."""
        with boundary(LearnerError, "publish"), self._engine.full_weights():
            scale = self._settings.lora_scale
            lm = self._policy.lm
            tensors = lm.state_dict() if scale is None else adapters(lm)
            update, payload = self._publisher.publish(tensors, version=self.version)
            return replace(update, lora_scale=scale), payload

    def save(self, folder: str) -> int:
        self.begin_save(folder)
        self.finish_save()
        return self.version

    def begin_save(self, folder: str) -> int:
        """Copy what a checkpoint holds and write it while training goes on; the version that is
        being saved. Waits for the save before, and raises what that one failed with.

        Of several learners all have to be asked, and the first one writes.
        """
        with boundary(LearnerError, "save"):
            peers.together(self._writer.wait)
            with self._engine.full_weights():
                state = TrainState(
                    step=self._engine.step_count,
                    version=self.version,
                    tensors=self._engine.state_tensors(),
                    lora_scale=self._settings.lora_scale,
                )
                if peers.rank() == 0:
                    write_policy = partial(
                        save_policy,
                        self._policy.lm,
                        base_path=self._config.policy.path,
                        weights=host_copy(plain_weights(self._policy.lm), masters=state.tensors),
                    )
                    self._writer.start(Path(folder), state=state, write_policy=write_policy)
        return self.version

    def finish_save(self) -> None:
        """Return when the last checkpoint is whole. Raises LearnerError when it could not be."""
        with boundary(LearnerError, "save"):
            self._writer.wait()

    def load(self, folder: str) -> None:
        """Go on from a checkpoint. Raises ConfigError for a torn one, or one of another learner."""
        with boundary(LearnerError, "load"):
            state = restore(
                Path(folder), policy=self._policy, engine=self._engine, settings=self._settings
            )
            self.version = state.version
            self._publisher.forget()

    def close(self) -> None:
        self._engine.close()

    def _train(self, samples: Sequence[TrainingSample], begun: _Begun) -> dict[str, float]:
        """`updates_per_step` optimizer steps over disjoint shares of the samples."""
        shares = _split(samples, self._settings.updates_per_step)
        plans = [
            self._plan([s for s in share if s.rollout_id.ordinal not in begun.ordinals])
            for share in shares
        ]
        anchors = peers.together(lambda: self._anchors(plans))[peers.rank()]
        early, everything = begun.passes, list(begun.passes)
        losses: list[float] = []
        norms: list[float] = []
        lr = 0.0
        for share, plan, anchor in zip(shares, plans, anchors, strict=True):
            accumulate = partial(self._accumulate, plan, anchor=anchor)
            total = normaliser(share, mode=self._settings.aggregation)
            passes = [done for learner in peers.together(accumulate) for done in learner]
            everything += passes
            lr = warmup_lr(
                self._engine.step_count,
                base=self._settings.lr,
                warmup_steps=self._settings.warmup_steps,
            )
            norms.append(self._engine.step(lr=lr, divide_by=total))
            losses.append(sum(done.loss for done in early + passes) / total)
            early = []
        return {
            "loss": sum(losses) / len(losses),
            "grad_norm": sum(norms) / len(norms),
            "lr": lr,
            "optimizer_steps": float(len(shares)),
            "micro_batches": float(len(everything)),
            "images": float(sum(done.images for done in everything)),
            "images_encoded": float(sum(done.encoded for done in everything)),
            **summarise([done.trace for done in everything]),
        }

    def _plan(self, share: Sequence[TrainingSample]) -> list[list[TrainingSample]]:
        """This learner's packs of the samples of an optimizer step."""
        budget = self._settings.micro_batch_tokens
        packs = plan_packs(
            share,
            max_tokens=peers.tokens_per_pack(share, most=budget),
            share_prefix=self._settings.share_prefix,
        )
        return peers.share_out(packs, num_learners=peers.num_learners())[peers.rank()]

    def _accumulate(
        self,
        plan: Sequence[list[TrainingSample]],
        *,
        anchor: Sequence[torch.Tensor] | None,
    ) -> list[Pass]:
        """Forward and backward of every pack; the step divides by the normaliser."""
        passes = []
        for number, batch in enumerate(self._batches(plan)):
            logprobs, entropy = self._engine.forward(batch)
            loss, trace = policy_loss(
                logprobs,
                entropy,
                self._targets(batch, anchor[number] if anchor else None),
                settings=self._settings,
                normaliser=1.0,
            )
            self._engine.backward(loss)
            passes.append(Pass(loss.item(), trace, batch.num_images, batch.num_encoded))
        return passes

    def _anchors(self, plans: list[list[list[TrainingSample]]]) -> list[list[torch.Tensor] | None]:
        """Per optimizer step, the log-probs from before the first one, where the loss needs them.

        The first step's own forward pass gives them; on-policy samples are held against the
        rollout's.
        """
        anchors: list[list[torch.Tensor] | None] = [None]
        for plan in plans[1:]:
            stale = self._settings.correct_on_policy or any(
                0 <= version < self.version
                for members in plan
                for sample in members
                for version in sample.policy_versions
            )
            needed = stale and self._settings.corrects
            anchors.append([self._score(members) for members in plan] if needed else None)
        return anchors

    def _score(self, members: Sequence[TrainingSample]) -> torch.Tensor:
        with torch.no_grad():
            batch = self._build(members).to(self._engine.device)
            logprobs: torch.Tensor = self._engine.forward(batch)[0]
        return logprobs

    def _batches(self, plan: Sequence[list[TrainingSample]]) -> Iterator[MicroBatch]:
        """On the learner's device. For a GPU the next pack is built while it computes; on a
        processor the two would share the cores."""
        device = self._engine.device
        if device.type == "cpu" or not plan:
            yield from map(self._build, plan)
            return
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="packs") as builder:
            coming = builder.submit(self._build, plan[0])
            for members in [*plan[1:], None]:
                batch = coming.result()
                if members is not None:
                    coming = builder.submit(self._build, members)
                yield batch.to(device)

    def _build(self, members: Sequence[TrainingSample]) -> MicroBatch:
        return build_micro_batch(
            members,
            chat=self._chat,
            images=self._images,
            share_prefix=self._settings.share_prefix,
        )

    def _targets(self, batch: MicroBatch, anchor: torch.Tensor | None) -> TokenTargets:
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference(batch)
        off_policy = batch.policy_versions < self.version
        return TokenTargets(
            rollout_logprobs=batch.rollout_logprobs,
            anchor_logprobs=anchor,
            reference_logprobs=reference,
            advantages=batch.advantages,
            off_policy=off_policy | self._settings.correct_on_policy,
            after_image=batch.after_image,
            sequences=batch.sequences,
        )


def select_samples(
    groups: Sequence[Group], *, config: Config
) -> tuple[list[TrainingSample], dict[str, float]]:
    """Samples of every group that teaches something, and why the others do not."""
    advantages: dict[RolloutId, float] = {}
    without: Counter[NoSignal] = Counter()
    for group in groups:
        found = advantages_of(group, config=config)
        if isinstance(found, NoSignal):
            without[found] += 1
        else:
            advantages |= found
    if config.reward.normalise == "per_part":
        advantages = dict(whiten(advantages))
    samples = [
        build_sample(member.trajectory, advantage=advantages[member.rollout_id])
        for group in groups
        for member in group.scored
        if member.trajectory is not None and member.rollout_id in advantages
    ]
    metrics = {f"groups_{reason}": float(without[reason]) for reason in NoSignal}
    return samples, metrics | {"groups": float(len(groups)), "samples": float(len(samples))}


def _split(samples: Sequence[TrainingSample], num_shares: int) -> list[list[TrainingSample]]:
    """Near-equal shares, none empty; sample i goes to share i % n, so groups are spread."""
    count = min(num_shares, len(samples))
    return [list(samples[start::count]) for start in range(count)]
