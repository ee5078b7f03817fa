"""Groups whose log-probs come from plain transformers, one sequence at a time.

    oracle = HfPolicy(folder)
    groups = make_oracle_groups(oracle, chat, store, scores=[[0.0, 1.0]])

Every member has two turns: random text, then two tool images, then random text again. The tokens
are random; the recorded log-probs are the oracle's, so equal weights are on-policy.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from core.protocols import ImageStore
from core.records import Completion, Group, Sampling, SeenImage, Trajectory, Turn
from envs.chat import ChatFormat
from tests.builders import (
    make_completion,
    make_group,
    make_member,
    make_rollout_id,
    make_task,
    make_trajectory,
    make_turn,
    png_bytes,
)
from tests.hf_policy import HfPolicy


def make_oracle_groups(
    oracle: HfPolicy,
    chat: ChatFormat,
    store: ImageStore,
    *,
    scores: Sequence[Sequence[float]],
    seed: int = 0,
    version: int = 0,
    temperature: float = 0.7,
) -> list[Group]:
    rng = random.Random(seed)
    groups = []
    for ordinal, values in enumerate(scores):
        task = make_task(ordinal)
        members = []
        for index, value in enumerate(values):
            trajectory = _roll_out(
                oracle, chat, store, rng=rng, version=version, temperature=temperature
            )
            trajectory = replace(trajectory, task=task, rollout_id=make_rollout_id(ordinal, index))
            members.append(make_member(value, index=index, task=task, trajectory=trajectory))
        groups.append(replace(make_group(task=task), members=tuple(members)))
    return groups


def _roll_out(
    oracle: HfPolicy,
    chat: ChatFormat,
    store: ImageStore,
    *,
    rng: random.Random,
    version: int,
    temperature: float,
) -> Trajectory:
    pngs = [png_bytes(tuple(rng.randrange(256) for _ in "rgb")) for _ in range(2)]
    images = tuple(chat.see(store.put(png), png) for png in pngs)
    context = chat.start(system="You draw.", prompt="Draw the flag of " + "x" * rng.randrange(40))
    seen: tuple[SeenImage, ...] = ()
    shown: list[bytes] = []
    turns: list[Turn] = []
    for last in (False, True):
        prompt_ids = tuple(chat.expand(context, seen))
        token_ids = tuple(rng.randrange(10, 200) for _ in range(rng.randrange(3, 20)))
        sampling = Sampling(
            temperature=temperature, top_p=1.0, banned_ids=chat.banned_ids, seed=rng.randrange(99)
        )
        logprobs = oracle.logprobs(
            prompt_ids,
            (*token_ids, chat.stop_id),
            pngs=shown,
            temperature=temperature,
            banned_ids=chat.banned_ids,
        )
        completion: Completion = make_completion(
            (*token_ids, chat.stop_id),
            version=version,
            logprobs=tuple(float(value) for value in logprobs),
            sampling=sampling,
        )
        turns.append(
            make_turn(
                engine_ids=tuple(context),
                prompt_ids=prompt_ids,
                images=seen,
                completion=completion,
            )
        )
        if not last:
            context += [*completion.token_ids, *chat.observe(["found", *images])]
            seen, shown = images, pngs
    return replace(make_trajectory(), turns=tuple(turns), shown=())
