"""One held-out episode as a person wants to read it: what it looked for, saw, chose and got.

In: a graded `Member`. Out: a `Showcase`, plain and JSON-ready, with images by digest; the report
and the W&B table are both drawn from it.
"""

import json
import re
from dataclasses import dataclass

from core.records import Answer, AnswerError, Failure, FoundImage, Member, Score, Trajectory, Turn
from rewards.reward import TEXT_PART

_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_MAX_RESULT_CHARS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    img_id: str
    title: str
    sha256: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowcaseStep:
    """One turn: what the policy thought and did, and what came back."""

    thought: str
    action: str
    """The tool's name, "answer", or "" when the turn held neither."""
    asked: str
    """The queries or the page, in words."""
    result: str
    images: tuple[ShownImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    name: str
    value: float | None
    rationale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Showcase:
    task_id: str
    prompt: str
    category: str
    hops: int
    steps: tuple[ShowcaseStep, ...]
    gen_prompt: str
    chosen: tuple[str, ...]
    """Digests of the chosen references, in order."""
    rendered: str | None
    truth: str | None
    reward: float | None
    """None when a failure of ours left no score."""
    grades: tuple[Grade, ...]
    ending: str
    """How it ended, in words."""


def make_showcase(member: Member) -> Showcase | None:
    """None when the rollout itself failed, so that there is nothing to show."""
    trajectory = member.trajectory
    if trajectory is None:
        return None
    answer, outcome = trajectory.answer, member.outcome
    task = trajectory.task
    return Showcase(
        task_id=task.task_id,
        prompt=task.prompt,
        category=task.meta.category,
        hops=task.meta.hops,
        steps=_steps(trajectory),
        gen_prompt=answer.gen_prompt if isinstance(answer, Answer) else "",
        chosen=_chosen(trajectory),
        rendered=member.rendered.image.sha256 if member.rendered else None,
        truth=task.ground_truth.sha256 if task.ground_truth else None,
        reward=outcome.value if isinstance(outcome, Score) else None,
        grades=_grades(outcome) if isinstance(outcome, Score) else (),
        ending=_ending(trajectory, outcome),
    )


def tool_calls(trajectory: Trajectory, name: str) -> int:
    """How often a tool was called in one episode."""
    return sum(
        turn.tool_call is not None and turn.tool_call.name == name for turn in trajectory.turns
    )


def _steps(trajectory: Trajectory) -> tuple[ShowcaseStep, ...]:
    chosen = set(_chosen(trajectory))
    unseen = dict(trajectory.shown)
    return tuple(_step(turn, unseen, chosen) for turn in trajectory.turns)


def _step(turn: Turn, unseen: dict[str, FoundImage], chosen: set[str]) -> ShowcaseStep:
    """`unseen` holds the images not yet listed at an earlier turn; listed ones are taken out."""
    thought = " ".join(match.strip() for match in _THOUGHT.findall(turn.text))
    result, images = "", []
    if turn.tool_result is not None:
        found = {image.ref.sha256 for image in turn.tool_result.images}
        for img_id, image in list(unseen.items()):
            if image.ref.sha256 in found:
                del unseen[img_id]
                sha256 = image.ref.sha256
                images.append(
                    ShownImage(
                        img_id=img_id, title=image.title, sha256=sha256, chosen=sha256 in chosen
                    )
                )
        result = (turn.tool_result.error or turn.tool_result.text)[:_MAX_RESULT_CHARS]
    action = (
        turn.tool_call.name if turn.tool_call else ("answer" if "<answer>" in turn.text else "")
    )
    return ShowcaseStep(
        thought=thought,
        action=action,
        asked=_asked(turn.tool_call.arguments) if turn.tool_call else "",
        result=result,
        images=tuple(images),
    )


def _asked(arguments: str) -> str:
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return arguments
    if not isinstance(parsed, dict):
        return arguments
    queries = parsed.get("queries", [parsed.get("url", ""), parsed.get("query", "")])
    if not isinstance(queries, list):
        return arguments
    return "; ".join(str(query) for query in queries if query)


def _chosen(trajectory: Trajectory) -> tuple[str, ...]:
    if isinstance(trajectory.answer, AnswerError):
        return ()
    return tuple(ref.sha256 for ref in trajectory.answer.chosen)


def _grades(score: Score) -> tuple[Grade, ...]:
    grades = tuple(
        Grade(name=part.name, value=part.value, rationale=part.rationale) for part in score.parts
    )
    return tuple(sorted(grades, key=lambda grade: grade.name != TEXT_PART))


def _ending(trajectory: Trajectory, outcome: Score | Failure) -> str:
    if isinstance(outcome, Failure):
        return f"not scored: {outcome.stage} failed ({outcome.message})"
    if isinstance(trajectory.answer, AnswerError):
        stop_reason = trajectory.stop_reason.replace("_", " ")
        return f"{stop_reason}: {trajectory.answer.reason}"
    return "answered"
