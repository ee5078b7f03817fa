"""The episode loop: one for SFT data making, training, evaluation and serving.

    policy.generate -> parse -> toolbox.call -> observe -> policy.generate -> ...

In: a task, and what plays it. Out: always a Trajectory with a StopReason; the agent's mistakes are
stop reasons. Our own faults propagate: InfraError and other StageErrors of policy, toolbox and
store, and FidelityError when the engine did not see the tokens that it was given. A provider that
is down stays in the trajectory as `ToolResult.error`, and the episode goes on.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import FidelityError, InfraError
from core.protocols import Generated, GenerateRequest, ImageStore, Policy, Toolbox
from core.records import (
    Answer,
    AnswerError,
    FinishReason,
    FoundImage,
    RolloutId,
    Sampling,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)
from envs.answers import MAX_REFERENCES, resolve_answer
from envs.chat import ChatFormat
from envs.parsing import AnswerBlock, FormatError, parse_completion
from envs.prompts import LAST_TURN, TOO_LONG, format_error
from envs.toolbox import UNAVAILABLE
from envs.transcript import Transcript

MAX_BAD_TURNS = 3
"""Turns in a row with neither a call nor an answer, before the episode ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeLimits:
    max_turns: int
    """Calls of the policy; the last one must be an answer."""
    max_tokens_per_turn: int
    max_context: int
    """Tokens of one episode, image tokens counted."""
    max_images_per_search: int
    max_references: int = MAX_REFERENCES
    """Reference images that the image model takes; an answer with more is refused."""
    max_tool_s: float = math.inf
    """Seconds that the episode may wait for its tools in all."""

    @property
    def reserve(self) -> int:
        """Tokens that an observation leaves free, so that a whole turn can follow it."""
        return min(self.max_tokens_per_turn, self.max_context // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """One turn as the policy sampled it."""

    request: GenerateRequest
    generated: Generated
    text: str
    started_s: float
    generate_s: float

    @property
    def is_cut(self) -> bool:
        return self.generated.completion.finish_reason is FinishReason.LENGTH

    @property
    def num_tokens(self) -> int:
        return len(self.generated.prompt_ids) + len(self.generated.completion.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What follows from a turn: its tool call is run, or it is refused with a note."""

    call: ToolCall | None = None
    note: str = ""
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """The episode is over after this turn."""

    reason: StopReason
    answer: Answer | AnswerError
    call: ToolCall | None = None
    """A call that came too late to be run."""
    repairs: tuple[str, ...] = ()


async def run_episode(
    task: Task,
    *,
    rollout_id: RolloutId,
    policy: Policy,
    toolbox: Toolbox,
    images: ImageStore,
    chat: ChatFormat,
    system_prompt: str,
    limits: EpisodeLimits,
    temperature: float,
    top_p: float,
    seed: int,
) -> Trajectory:
    """Play one task to its end. `seed` is the run's; every turn samples with one of its own."""
    transcript = Transcript(chat, system=system_prompt, prompt=task.prompt)
    if transcript.num_tokens >= limits.max_context:
        message = f"task {task.task_id} alone has {transcript.num_tokens} tokens"
        raise InfraError(f"{message}; raise rollout.max_context", retryable=False)
    turns: list[Turn] = []
    while True:
        request = GenerateRequest(
            rollout_id=rollout_id,
            engine_ids=transcript.engine_ids,
            images=transcript.images,
            sampling=Sampling(
                temperature=temperature,
                top_p=top_p,
                banned_ids=chat.banned_ids,
                seed=turn_seed(seed, rollout_id, turn=len(turns)),
            ),
            max_tokens=min(limits.max_tokens_per_turn, limits.max_context - transcript.num_tokens),
        )
        sampled = await _sample(policy, request, chat)
        _check_fidelity(sampled.generated, request, chat=chat, turns=turns)
        transcript.add_completion(sampled.generated.completion.token_ids)

        step = _decide(sampled, turns=turns, shown=transcript.shown, limits=limits)
        result, tool_s = None, 0.0
        left_out: tuple[str, ...] = ()
        if isinstance(step, _Step):
            left_s = limits.max_tool_s - sum(turn.tool_s for turn in turns)
            result, tool_s = await _run_tool(toolbox, step.call, rollout_id, left_s=left_s)
            last_is_next = len(turns) + 2 == limits.max_turns
            observed = await _observe(
                transcript,
                result,
                note=" ".join(filter(None, (step.note, LAST_TURN if last_is_next else ""))),
                images=images,
                limits=limits,
            )
            if observed is None:
                step = _ended(StopReason.TOO_LONG, "the context is used up", step)
            else:
                left_out = observed
        turns.append(_turn(sampled, step, result, tool_s=tool_s, left_out=left_out))
        if isinstance(step, _End):
            return Trajectory(
                rollout_id=rollout_id,
                task=task,
                turns=tuple(turns),
                stop_reason=step.reason,
                answer=step.answer,
                shown=transcript.shown,
            )


def turn_seed(seed: int, rollout_id: RolloutId, *, turn: int) -> int:
    """Equal on every machine, different for every turn of every member; below 2**32."""
    digest = hashlib.sha256(f"{seed}/{rollout_id}/{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


async def _sample(policy: Policy, request: GenerateRequest, chat: ChatFormat) -> _Sampled:
    started_s, clock_s = time.time(), time.perf_counter()
    generated = await policy.generate(request)
    if generated.completion.finish_reason is FinishReason.ABORT:
        raise InfraError(f"rollout {request.rollout_id}: the engine aborted a turn")
    token_ids = generated.completion.token_ids
    return _Sampled(
        request=request,
        generated=generated,
        text=chat.decode(token_ids[:-1] if token_ids[-1:] == (chat.stop_id,) else token_ids),
        started_s=started_s,
        generate_s=time.perf_counter() - clock_s,
    )


def _check_fidelity(
    generated: Generated, request: GenerateRequest, *, chat: ChatFormat, turns: Sequence[Turn]
) -> None:
    """The engine saw exactly our ids, and they begin with all that went before."""
    where = f"rollout={request.rollout_id} turn={len(turns)}"
    if list(generated.prompt_ids) != chat.expand(request.engine_ids, request.images):
        raise FidelityError(f"{where}: the engine expanded the prompt to other ids than ours")
    if turns:
        before = turns[-1].prompt_ids + turns[-1].completion.token_ids
        if generated.prompt_ids[: len(before)] != before:
            raise FidelityError(f"{where}: the prompt does not begin with the turn before it")


def _decide(
    sampled: _Sampled,
    *,
    turns: Sequence[Turn],
    shown: Sequence[tuple[str, FoundImage]],
    limits: EpisodeLimits,
) -> _Step | _End:
    """What the turn means. `turns` are those before it."""
    is_last = len(turns) + 1 == limits.max_turns
    if turns and sampled.text == turns[-1].text:
        return _ended(StopReason.REPEATED, "the turn repeats the one before it")
    if sampled.is_cut:
        if sampled.num_tokens >= limits.max_context:
            return _ended(StopReason.TOO_LONG, "the context is used up")
        if turns and turns[-1].completion.finish_reason is FinishReason.LENGTH:
            return _ended(StopReason.REPEATED, "two turns in a row were too long")
        if is_last:
            return _ended(StopReason.NO_ANSWER, "the last turn was too long")
        return _Step(note=TOO_LONG)
    block = parse_completion(sampled.text)
    if isinstance(block, AnswerBlock):
        refs = {img_id: image.ref for img_id, image in shown}
        answer, repairs = resolve_answer(
            block.value, shown=refs, max_references=limits.max_references
        )
        reason = StopReason.ANSWER if isinstance(answer, Answer) else StopReason.BAD_ANSWER
        return _End(reason=reason, answer=answer, repairs=block.repairs + repairs)
    if isinstance(block, FormatError):
        step = _Step(note=format_error(block.reason), repairs=block.repairs)
        if not is_last and _num_bad(turns) + 1 >= MAX_BAD_TURNS:
            return _ended(StopReason.BAD_FORMAT, block.reason, step)
    else:
        step = _Step(call=block.call, repairs=block.repairs)
    if is_last:
        return _ended(StopReason.NO_ANSWER, "the last turn held no answer", step)
    return step


def _num_bad(turns: Sequence[Turn]) -> int:
    """How many turns in a row, up to the latest, held no tool call."""
    num_bad = 0
    for turn in reversed(turns):
        if turn.tool_call is not None:
            break
        num_bad += 1
    return num_bad


def _ended(reason: StopReason, why: str, step: _Step | None = None) -> _End:
    step = step or _Step()
    answer = AnswerError(reason=why)
    return _End(reason=reason, answer=answer, call=step.call, repairs=step.repairs)


async def _run_tool(
    toolbox: Toolbox, call: ToolCall | None, rollout_id: RolloutId, *, left_s: float
) -> tuple[ToolResult | None, float]:
    """The result and the seconds it took; None when there is nothing to run."""
    if call is None:
        return None, 0.0
    clock_s = time.perf_counter()
    try:
        async with asyncio.timeout(None if left_s == math.inf else left_s):
            result = await toolbox.call(call, rollout_id=rollout_id)
    except TimeoutError:
        why = f"{call.name}: the episode's time for tools is used up"
        result = ToolResult(text=UNAVAILABLE, error=why)
    return result, time.perf_counter() - clock_s


async def _observe(
    transcript: Transcript,
    result: ToolResult | None,
    *,
    note: str,
    images: ImageStore,
    limits: EpisodeLimits,
) -> tuple[str, ...] | None:
    """Show the result and the note. What was left out; None when the context is used up."""
    room = limits.max_context - limits.reserve - transcript.num_tokens
    if result is None:
        return () if transcript.add_note(note, max_tokens=room) else None
    distinct: dict[str, FoundImage] = {}
    for image in result.images:
        distinct.setdefault(image.ref.sha256, image)
    found = list(distinct.values())[: limits.max_images_per_search]
    loaded = [(image, await asyncio.to_thread(images.get, image.ref)) for image in found]
    return transcript.add_response(result, loaded, note=note, max_tokens=room)


def _turn(
    sampled: _Sampled,
    step: _Step | _End,
    result: ToolResult | None,
    *,
    tool_s: float,
    left_out: tuple[str, ...],
) -> Turn:
    return Turn(
        engine_ids=sampled.request.engine_ids,
        prompt_ids=sampled.generated.prompt_ids,
        images=sampled.request.images,
        completion=sampled.generated.completion,
        text=sampled.text,
        tool_call=step.call,
        tool_result=result,
        repairs=step.repairs + left_out,
        started_s=sampled.started_s,
        generate_s=sampled.generate_s,
        tool_s=tool_s,
    )
