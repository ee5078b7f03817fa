"""`gensearcher doctor --mismatch`: do rollout and learner agree on a policy, on its images too?

Enters: a Config. The rollout engine of the recipe samples short conversations, in which every
answer is followed by images, whatever it said; then the learner's model scores the very same
tokens. Leaves: a `MismatchReport`. Both models are in memory at once, without an optimizer.

Raises ConfigError for a folder that holds no policy, InfraError when the engine fails,
FidelityError when the two build other tokens or pixels from one conversation.
"""

import asyncio
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from actors.engines import engine_type
from core.config import Config
from core.protocols import Generated, GenerateRequest, ImageStore, Policy
from core.records import (
    AnswerError,
    FinishReason,
    RolloutId,
    Sampling,
    SeenImage,
    StopReason,
    Task,
    Trajectory,
    Turn,
)
from envs.chat import ChatFormat
from envs.images import FileImageStore
from envs.nano.flags import draw, encode_png, random_flag
from envs.nano.world import World
from envs.tasks import NanoTasks
from learners.mismatch import Difference, Mismatch, measure
from learners.model import load_policy
from learners.samples import build_sample

CONVERSATIONS = 8
TURNS = 3
IMAGES_PER_TURN = 2
TOKENS_PER_TURN = 64
SYSTEM = "Tools: search, image_search, browse."
"""Short, and the one that the nano policy knows."""

EXACT_MAX = 1e-4
"""Largest difference of one token where both sides compute in float32."""
ROUNDED_MEAN = 0.05
"""Largest mean difference where one side computes in bfloat16, whose rounding is all it may be."""
BLANK_MEAN = 0.02
"""Least mean difference that blanked pixels must make, and five times that of the true ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MismatchReport:
    found: Mismatch
    problems: tuple[str, ...]
    """What does not hold, in sentences; () when all does."""


def check_mismatch(config: Config) -> MismatchReport:
    """Tens of seconds for a small policy. The variables of `worker_env` must be set."""
    chat = ChatFormat.load(config.policy.path)
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        images = FileImageStore(Path(folder))
        played = asyncio.run(_play(config, chat, images))
        device = torch.device(config.learner.device)
        found = measure(
            load_policy(config).eval().to(device),
            [build_sample(one, advantage=0.0) for one in played],
            chat=chat,
            images=images,
            max_tokens=config.learner.micro_batch_tokens,
            device=device,
        )
    return MismatchReport(found=found, problems=problems_of(found, exact=_is_exact(config)))


def mismatch_json(report: MismatchReport) -> dict[str, Any]:
    return {
        "ok": not report.problems,
        "problems": list(report.problems),
        **asdict(report.found),
    }


def problems_of(found: Mismatch, *, exact: bool) -> tuple[str, ...]:
    """`exact`: both sides compute in float32."""
    problems = []
    for name, difference, cause in (
        ("text tokens", found.text, "they load or compute the policy in two ways"),
        ("tokens after an image", found.after_image, "they see other pixels or positions"),
    ):
        if _is_too_far(difference, exact=exact):
            limit = f"{EXACT_MAX:g} at most" if exact else f"{ROUNDED_MEAN:g} on average at most"
            problems.append(
                f"on {name} the learner's log-probs differ from the rollout's by "
                f"{difference.mean:.2g} on average and {difference.max:.2g} at most, where "
                f"{limit} is rounding; {cause}"
            )
    if not found.blanked.mean >= max(BLANK_MEAN, 5 * found.after_image.mean):
        problems.append(
            f"blanked pixels change the log-probs of {found.blanked.num_tokens} tokens after an "
            f"image by only {found.blanked.mean:.2g} on average, so their agreement proves "
            "nothing; the policy does not look at its images"
        )
    return tuple(problems)


def _is_too_far(difference: Difference, *, exact: bool) -> bool:
    """A number that is none is too far as well."""
    if exact:
        return not difference.max <= EXACT_MAX
    return not difference.mean <= ROUNDED_MEAN


def _is_exact(config: Config) -> bool:
    return config.policy.dtype == config.learner.dtype == "float32"


async def _play(config: Config, chat: ChatFormat, images: ImageStore) -> list[Trajectory]:
    engine = engine_type(config)(config, images=images, stop_ids=[chat.stop_id])
    tasks = NanoTasks(World(), "train", seed=config.run.seed, images=images)
    try:
        conversations = (
            _converse(config, tasks.task(number), policy=engine, chat=chat, images=images)
            for number in range(CONVERSATIONS)
        )
        return list(await asyncio.gather(*conversations))
    finally:
        await engine.aclose()


async def _converse(
    config: Config, task: Task, *, policy: Policy, chat: ChatFormat, images: ImageStore
) -> Trajectory:
    """The policy speaks, is shown images, and speaks again. What it says is not looked at."""
    rng = random.Random(f"{config.run.seed}/{task.ordinal}")
    rollout_id = RolloutId(ordinal=task.ordinal, index=0)
    context = chat.start(system=SYSTEM, prompt=task.prompt)
    seen: list[SeenImage] = []
    turns: list[Turn] = []
    for _ in range(min(TURNS, config.rollout.max_turns)):
        request = GenerateRequest(
            rollout_id=rollout_id,
            engine_ids=tuple(context),
            images=tuple(seen),
            sampling=Sampling(
                temperature=config.rollout.temperature,
                top_p=config.rollout.top_p,
                banned_ids=chat.banned_ids,
                seed=rng.getrandbits(63),
            ),
            max_tokens=min(TOKENS_PER_TURN, config.rollout.max_tokens_per_turn),
        )
        generated = await policy.generate(request)
        turns.append(_turn(request, generated))
        parts: list[str | SeenImage] = []
        for _ in range(min(IMAGES_PER_TURN, config.tools.max_images_per_search)):
            data = _picture(rng)
            seen.append(chat.see(images.put(data), data))
            parts += [f"IMG_{len(seen):03d} ", seen[-1]]
        closed = generated.completion.finish_reason is FinishReason.STOP
        context += [*generated.completion.token_ids, *chat.observe(parts, closed=closed)]
    return Trajectory(
        rollout_id=rollout_id,
        task=task,
        turns=tuple(turns),
        stop_reason=StopReason.NO_ANSWER,
        answer=AnswerError(reason="none was asked for"),
        shown=(),
    )


def _turn(request: GenerateRequest, generated: Generated) -> Turn:
    return Turn(
        engine_ids=request.engine_ids,
        prompt_ids=generated.prompt_ids,
        images=request.images,
        completion=generated.completion,
        text="",
        tool_call=None,
        tool_result=None,
        started_s=0.0,
        generate_s=0.0,
    )


def _picture(rng: random.Random) -> bytes:
    """A flag, once or twice as wide and as high as it is, so that image grids differ."""
    flag = draw(random_flag(rng))
    wide, high = rng.choice((1, 2)), rng.choice((1, 2))
    return encode_png(flag.repeat(high, axis=0).repeat(wide, axis=1))
