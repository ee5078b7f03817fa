"""A completion's text -> one tool call, one answer, or what is wrong with it.

The published protocol: <think>..</think>, then exactly one <tool_call>{json}</tool_call> or
<answer>{json}</answer>. In: text that the policy sampled, its stop token left off. Out: never an
exception. A tag inside the thought is only text. Where there is more than one block, the first
counts. JSON is repaired only where its meaning is certain, and every repair is named:

    no_think, think_not_opened, extra_think     the thought is missing, half open, or there are two
    stray_text, extra_block, unclosed_block     text or blocks beside the one that counts
    code_fence, trailing_comma, raw_newline     JSON mended
    arguments_as_text                           the arguments were JSON inside a JSON string
    (those of the answer itself stand in envs/answers.py)
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from core.records import ToolCall

_OPENING = re.compile(r"<(tool_call|answer)>")
_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+(?:"|$))|,(?=\s*[}\]])', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallBlock:
    call: ToolCall
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerBlock:
    """An answer that was given; envs/answers.py reads it against the images shown."""

    value: dict[str, Any] | None
    """The JSON object; None when it could not be read."""
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatError:
    reason: str
    """One sentence in our own words: it is shown to the policy as trusted text."""
    repairs: tuple[str, ...] = ()


def parse_completion(text: str) -> ToolCallBlock | AnswerBlock | FormatError:
    """The one block that counts. Never raises, whatever the text."""
    repairs: list[str] = []
    rest = _after_think(text, repairs)
    if rest is None:
        return FormatError(reason="<think> is never closed")
    opening = _OPENING.search(rest)
    if opening is None:
        return FormatError(reason="neither <tool_call> nor <answer>", repairs=tuple(repairs))
    if rest[: opening.start()].strip():
        repairs.append("stray_text")
    content = _block_content(rest, opening, repairs)
    value = _load_object(content, repairs)
    if opening[1] == "answer":
        return AnswerBlock(value=value, repairs=tuple(repairs))
    return _tool_call(value, repairs)


def _after_think(text: str, repairs: list[str]) -> str | None:
    """What follows the thought; None when the thought never ends."""
    rest = text.lstrip()
    if not rest.startswith("<think>"):
        closing = rest.find("</think>")
        opening = _OPENING.search(rest)
        if closing == -1 or (opening and opening.start() < closing):
            repairs.append("no_think")
            return rest
        repairs.append("think_not_opened")
        rest = "<think>" + rest
    num_thoughts = 0
    while rest.startswith("<think>"):
        _, closed, rest = rest.partition("</think>")
        if not closed:
            return None
        rest = rest.lstrip()
        num_thoughts += 1
    if num_thoughts > 1:
        repairs.append("extra_think")
    return rest


def _block_content(rest: str, opening: re.Match[str], repairs: list[str]) -> str:
    """The text between the tags. A closing tag inside the JSON's own strings does not end it."""
    closing = f"</{opening[1]}>"
    content = rest[opening.end() :]
    end = _json_end(content)
    after = content[end:].lstrip()
    if end and after.startswith(closing):
        content, after = content[:end], after.removeprefix(closing)
    elif end and not after:
        repairs.append("unclosed_block")
    else:
        content, closed, after = content.partition(closing)
        if not closed:
            repairs.append("unclosed_block")
    if _OPENING.search(after):
        repairs.append("extra_block")
    elif after.strip():
        repairs.append("stray_text")
    return content


def _json_end(content: str) -> int:
    """Where the JSON value that `content` begins with ends; 0 when it begins with none."""
    start = len(content) - len(content.lstrip())
    try:
        _, end = json.JSONDecoder(strict=False).raw_decode(content, start)
    except (ValueError, RecursionError):
        return 0
    return end


def _load_object(content: str, repairs: list[str]) -> dict[str, Any] | None:
    """The JSON object, mended where that is certain; None when it stays unreadable."""
    fenced = _FENCE.fullmatch(content)
    if fenced:
        content = fenced[1]
    mended = _STRING_OR_COMMA.sub(lambda match: match[1] or "", content)
    for candidate, strict, names in (
        (content, True, ()),
        (content, False, ("raw_newline",)),
        (mended, True, ("trailing_comma",)),
        (mended, False, ("trailing_comma", "raw_newline")),
    ):
        value = _loads(candidate, strict=strict)
        if isinstance(value, dict):
            repairs.extend([*(("code_fence",) if fenced else ()), *names])
            return value
    return None


def _loads(content: str, *, strict: bool = True) -> Any:
    """A JSON value; None when it is not valid, has two values for one key, or is no Unicode."""
    try:
        value = json.loads(
            content,
            strict=strict,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode()  # fails on half a surrogate pair
    except (ValueError, RecursionError):
        return None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key has two values")
    return members


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


_CALL_FORM: Final = 'write {"name": ..., "arguments": {...}} inside <tool_call>'


def _tool_call(value: dict[str, Any] | None, repairs: list[str]) -> ToolCallBlock | FormatError:
    reason = ""
    name = value.get("name") if value else None
    arguments = value.get("arguments") if value else None
    if isinstance(arguments, str):
        arguments = _loads(arguments)
        repairs.append("arguments_as_text")
    if value is None:
        reason = f"the tool call is not valid JSON; {_CALL_FORM}"
    elif not isinstance(name, str) or not name:
        reason = f"the tool call has no name; {_CALL_FORM}"
    elif not isinstance(arguments, dict):
        reason = f"the tool call has no arguments object; {_CALL_FORM}"
    if reason:
        return FormatError(reason=reason, repairs=tuple(repairs))
    call = ToolCall(name=str(name), arguments=json.dumps(arguments, ensure_ascii=False))
    return ToolCallBlock(call=call, repairs=tuple(repairs))
