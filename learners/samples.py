"""A finished episode -> one training sequence, token for token as the rollout saw it. Pure.

In: a `Trajectory` and its advantage. Out: a `TrainingSample`: the last turn's expanded prompt plus
its completion, with every turn's sampled tokens marked. Nothing is decoded or encoded again. Fails
with FidelityError when the turns do not grow out of one another (prefix property), when their
images differ, or when they were sampled in different ways.
"""

from dataclasses import replace

from core.errors import FidelityError
from core.records import Completion, Sampling, TrainingSample, Trajectory, Turn


def build_sample(trajectory: Trajectory, *, advantage: float) -> TrainingSample:
    """One sequence of length L = len(last prompt) + len(last completion). Raises FidelityError."""
    if not trajectory.turns:
        raise FidelityError(f"rollout={trajectory.rollout_id} has no turn to train on")
    last = trajectory.turns[-1]
    token_ids = last.prompt_ids + last.completion.token_ids
    length = len(token_ids)
    loss_mask = [0] * length
    logprobs = [0.0] * length
    versions = [-1] * length
    for number, turn in enumerate(trajectory.turns):
        _check_turn(trajectory, number, turn, token_ids=token_ids)
        start = len(turn.prompt_ids)
        end = start + len(turn.completion.token_ids)
        loss_mask[start:end] = [1] * (end - start)
        logprobs[start:end] = turn.completion.logprobs
        versions[start:end] = _token_versions(turn.completion)
    return TrainingSample(
        rollout_id=trajectory.rollout_id,
        token_ids=token_ids,
        loss_mask=tuple(loss_mask),
        logprobs=tuple(logprobs),
        advantages=tuple(advantage * mask for mask in loss_mask),
        policy_versions=tuple(versions),
        images=last.images,
        sampling=last.completion.sampling,
    )


def _check_turn(
    trajectory: Trajectory, number: int, turn: Turn, *, token_ids: tuple[int, ...]
) -> None:
    """The turn's prompt, completion and images must be how the whole sequence starts."""
    where = f"rollout={trajectory.rollout_id} turn={number}"
    last = trajectory.turns[-1]
    seen = turn.prompt_ids + turn.completion.token_ids
    if token_ids[: len(seen)] != seen:
        pairs = enumerate(zip(seen, token_ids, strict=False))
        at = next((i for i, (own, whole) in pairs if own != whole), len(token_ids))
        raise FidelityError(f"{where}: token {at} of the turn is not in the last turn's context")
    if last.images[: len(turn.images)] != turn.images:
        raise FidelityError(f"{where}: its images are not the first ones of the last turn")
    if _policy_of(turn.completion.sampling) != _policy_of(last.completion.sampling):
        raise FidelityError(f"{where}: it was sampled in another way than the last turn")


def _policy_of(sampling: Sampling) -> Sampling:
    """What the learner must repeat; every turn has a seed of its own."""
    return replace(sampling, seed=0)


def _token_versions(completion: Completion) -> list[int]:
    """One policy version per sampled token; the spans must cover the completion exactly."""
    versions: list[int] = []
    for version, start, end in completion.policy_versions:
        if start != len(versions):
            raise FidelityError(f"version spans {completion.policy_versions} leave a gap")
        versions += [version] * (end - start)
    if len(versions) != len(completion.token_ids):
        raise FidelityError(
            f"version spans {completion.policy_versions} do not cover "
            f"{len(completion.token_ids)} tokens"
        )
    return versions
