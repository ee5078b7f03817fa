"""One-line builders of records for tests. Every argument has a default, and every default is valid.

    group = make_group(scores=[0.0, 1.0])
    trajectory = make_trajectory(completions=[[5, 6], [7]], answer=make_answer())

Token ids are small integers: a placeholder image token is `IMAGE_PAD`; nothing here needs a
tokenizer or an engine.
"""

import hashlib
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from core.records import (
    Answer,
    AnswerError,
    Completion,
    Failure,
    FinishReason,
    FoundImage,
    Group,
    ImageRef,
    Member,
    Provenance,
    RenderedImage,
    RenderRequest,
    RolloutId,
    Sampling,
    Score,
    ScorePart,
    SeenImage,
    Stage,
    StopReason,
    Task,
    TaskMeta,
    ToolCall,
    ToolResult,
    TrainingSample,
    Trajectory,
    Turn,
)

IMAGE_PAD = 3
"""The image placeholder id in built trajectories."""


def png_bytes(
    color: tuple[int, int, int] = (255, 0, 0), *, size: tuple[int, int] = (32, 32)
) -> bytes:
    """A PNG of one colour; equal arguments give equal bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def make_image_ref(name: str = "a", *, width: int = 32, height: int = 32) -> ImageRef:
    """A ref whose digest is that of the name; its bytes are in no store."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ImageRef(sha256=digest, media_type="image/png", width=width, height=height)


def make_seen_image(name: str = "a", *, num_tokens: int = 4) -> SeenImage:
    return SeenImage(
        ref=make_image_ref(name),
        grid_thw=(1, 4, num_tokens),
        num_tokens=num_tokens,
        pixel_digest=hashlib.sha256(f"pixels of {name}".encode()).hexdigest(),
    )


def make_found_image(name: str = "a", *, title: str = "Flag of Zorvia") -> FoundImage:
    return FoundImage(ref=make_image_ref(name), title=title, page_url="https://example.test/zorvia")


def make_task(ordinal: int = 0, **changes: Any) -> Task:
    values: dict[str, Any] = {
        "task_id": f"task-{ordinal}",
        "ordinal": ordinal,
        "prompt": "Draw the flag of Zorvia.",
        "ground_truth": make_image_ref("truth"),
        "meta": TaskMeta(category="culture"),
    }
    return Task(**(values | changes))


def make_rollout_id(ordinal: int = 0, index: int = 0, attempt: int = 0) -> RolloutId:
    return RolloutId(ordinal=ordinal, index=index, attempt=attempt)


def make_sampling(**changes: Any) -> Sampling:
    values: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95, "banned_ids": (3, 4), "seed": 0}
    return Sampling(**(values | changes))


def make_completion(
    token_ids: Sequence[int] = (10, 11, 2), *, version: int = 0, **changes: Any
) -> Completion:
    """Sampled tokens with logprob -0.5 each, all from one policy version."""
    values: dict[str, Any] = {
        "token_ids": tuple(token_ids),
        "logprobs": (-0.5,) * len(token_ids),
        "finish_reason": FinishReason.STOP,
        "sampling": make_sampling(),
        "policy_versions": ((version, 0, len(token_ids)),),
    }
    return Completion(**(values | changes))


def make_turn(
    *, prompt_ids: Sequence[int] = (1, 5, 6), completion: Completion | None = None, **changes: Any
) -> Turn:
    values: dict[str, Any] = {
        "engine_ids": tuple(prompt_ids),
        "prompt_ids": tuple(prompt_ids),
        "images": (),
        "completion": completion or make_completion(),
        "text": "<think>x</think><answer>{}</answer>",
        "tool_call": None,
        "tool_result": None,
        "started_s": 0.0,
        "generate_s": 0.1,
    }
    return Turn(**(values | changes))


def make_answer(*, chosen: Sequence[ImageRef] = (), **changes: Any) -> Answer:
    values: dict[str, Any] = {
        "gen_prompt": "flag of Zorvia red stripes",
        "chosen": tuple(chosen),
        "notes": ("copy the flag",) * len(chosen),
    }
    return Answer(**(values | changes))


def make_trajectory(
    *,
    completions: Sequence[Sequence[int]] = ((10, 11, 2), (12, 2)),
    images: Sequence[SeenImage] = (),
    version: int = 0,
    task: Task | None = None,
    rollout_id: RolloutId | None = None,
    **changes: Any,
) -> Trajectory:
    """Turns that keep the prefix property; the tool result after turn 0 shows all `images`.

    Turn k > 0 starts with turn k-1's prompt and completion, then two observation tokens (and,
    after turn 0, one placeholder run per image).
    """
    task = task or make_task()
    answer: Answer | AnswerError = changes.get("answer", make_answer())
    turns: list[Turn] = []
    engine_ids: list[int] = [1, 5, 6]
    prompt_ids: list[int] = [1, 5, 6]
    seen: tuple[SeenImage, ...] = ()
    for number, token_ids in enumerate(completions):
        last = number == len(completions) - 1
        found = tuple(FoundImage(ref=i.ref, title="image", page_url="") for i in images)
        result = ToolResult(text="found", images=() if number else found)
        turns.append(
            make_turn(
                prompt_ids=prompt_ids,
                engine_ids=tuple(engine_ids),
                images=seen,
                completion=make_completion(token_ids, version=version),
                tool_call=None if last else ToolCall(name="search", arguments='{"queries": ["x"]}'),
                tool_result=None if last else result,
            )
        )
        new_images = () if number else tuple(images)
        engine_ids += [*token_ids, 7, *([IMAGE_PAD] * len(new_images)), 8]
        prompt_ids += [*token_ids, 7]
        for image in new_images:
            prompt_ids += [IMAGE_PAD] * image.num_tokens
        prompt_ids += [8]
        seen += new_images
    values: dict[str, Any] = {
        "rollout_id": rollout_id or make_rollout_id(task.ordinal),
        "task": task,
        "turns": tuple(turns),
        "stop_reason": StopReason.ANSWER if isinstance(answer, Answer) else StopReason.NO_ANSWER,
        "answer": answer,
        "shown": tuple(
            (f"IMG_{n:03d}", FoundImage(ref=image.ref, title="image", page_url=""))
            for n, image in enumerate(images, start=1)
        ),
    }
    return Trajectory(**(values | changes))


def make_provenance(**changes: Any) -> Provenance:
    return Provenance(**({"judge": "pixels", "prompt_sha": ""} | changes))


def make_score(value: float = 0.5, *, parts: Sequence[ScorePart] | None = None) -> Score:
    """A score with one part of that value, unless parts are given."""
    if parts is None:
        parts = [make_score_part("faithfulness", value)]
    return Score(value=value, parts=tuple(parts))


def make_score_part(name: str, value: float | None, *, weight: float = 1.0) -> ScorePart:
    return ScorePart(
        name=name, value=value, weight=weight, rationale="", provenance=make_provenance()
    )


def make_failure(stage: Stage = Stage.RENDER, **changes: Any) -> Failure:
    values: dict[str, Any] = {
        "stage": stage,
        "error_type": "TimeoutError",
        "message": "the replica did not answer",
        "retryable": True,
    }
    return Failure(**(values | changes))


def make_render_request(**changes: Any) -> RenderRequest:
    values: dict[str, Any] = {
        "prompt": "flag of Zorvia red stripes",
        "references": (),
        "seed": 0,
        "steps": 4,
        "model": "nano",
    }
    return RenderRequest(**(values | changes))


def make_rendered(name: str = "rendered", **changes: Any) -> RenderedImage:
    values: dict[str, Any] = {
        "image": make_image_ref(name),
        "request": make_render_request(),
        "seconds": 0.1,
        "cached": False,
    }
    return RenderedImage(**(values | changes))


def make_member(
    outcome: Score | Failure | float = 0.5,
    *,
    index: int = 0,
    task: Task | None = None,
    trajectory: Trajectory | None = None,
    **changes: Any,
) -> Member:
    """A member with a trajectory; a float is short for a Score of that value."""
    task = task or make_task()
    rollout_id = trajectory.rollout_id if trajectory else make_rollout_id(task.ordinal, index)
    values: dict[str, Any] = {
        "rollout_id": rollout_id,
        "trajectory": trajectory or make_trajectory(task=task, rollout_id=rollout_id),
        "rendered": make_rendered(),
        "outcome": make_score(outcome) if isinstance(outcome, float) else outcome,
    }
    return Member(**(values | changes))


def make_group(
    scores: Sequence[Score | Failure | float] = (0.0, 0.5, 1.0), *, task: Task | None = None
) -> Group:
    """One member per outcome, all of one task."""
    task = task or make_task()
    members = [make_member(score, index=n, task=task) for n, score in enumerate(scores)]
    return Group(task=task, members=tuple(members))


def make_sample(
    *,
    prompt_ids: Sequence[int] = (1, 5, 6),
    completion_ids: Sequence[int] = (10, 11, 2),
    advantage: float = 1.0,
    version: int = 0,
    **changes: Any,
) -> TrainingSample:
    """A single-turn sample: the prompt is masked, the completion is trained on."""
    zeros, ones = len(prompt_ids), len(completion_ids)
    values: dict[str, Any] = {
        "rollout_id": make_rollout_id(),
        "token_ids": (*prompt_ids, *completion_ids),
        "loss_mask": (0,) * zeros + (1,) * ones,
        "logprobs": (0.0,) * zeros + (-0.5,) * ones,
        "advantages": (0.0,) * zeros + (advantage,) * ones,
        "policy_versions": (-1,) * zeros + (version,) * ones,
        "images": (),
        "sampling": make_sampling(),
    }
    return TrainingSample(**(values | changes))
