"""A judge's reply as grades, or a JudgeError; never an invented number.

Repaired, because the meaning is certain:

- white space, and one closed `<think>...</think>` block at the start, around the JSON;
- a code fence or prose around it, when no other brace or bracket stands in the text;
- a grade written as text that spells a grade of the scale ("0.5", "1.0");
- "text does not apply" said as null, as "N/A", or by `text_accuracy_na` being true.

Everything else is refused with one sentence and asked for again: a key that is missing or stands
twice, a grade off the scale, true and false, NaN, a cut reply.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from core.errors import JudgeError

Json = Mapping[str, Any]

IMAGE_SCALE = (0.0, 0.5, 1.0)
TEXT_SCALE = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_RATIONALE_CHARS = 4000

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_NOT_APPLICABLE = frozenset({"n/a", "null", "not applicable"})


def without_thoughts(text: str) -> str:
    """The reply less one leading, closed block of thoughts. Raises JudgeError for an open one."""
    rest = _THOUGHTS.sub("", text, count=1)
    if "<think>" in rest:
        refuse("its thoughts have no end")
    return rest.strip().removeprefix("\ufeff").strip()


def read_object(text: str) -> Json:
    """The one JSON object of a reply. Raises JudgeError."""
    text = without_thoughts(text)
    start = text.find("{")
    if start < 0:
        refuse("there is no JSON object in it")
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        refuse(f"its JSON cannot be read ({str(error)[:100]})")
    around = text[:start] + text[end:]
    if any(mark in around for mark in "{}[]"):
        refuse("it holds more than one JSON value")
    assert isinstance(value, dict)
    return value


def read_grade(reply: Json, name: str, *, scale: Sequence[float]) -> float:
    """The grade under `name`, exactly one of `scale`. Raises JudgeError."""
    value = _value(reply, name)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(f"{name} is {_short(value)}, which is no number")
    if value not in scale:
        levels = ", ".join(f"{level:g}" for level in scale)
        refuse(f"{name} is {_short(value)}, which is none of {levels}")
    return float(value)


def read_text_accuracy(reply: Json) -> float | None:
    """None: the task asks for no text, said by any of the forms that the module names."""
    flag = reply.get("text_accuracy_na", False)
    if isinstance(flag, str) and flag.strip().lower() in ("true", "false"):
        flag = flag.strip().lower() == "true"
    if not isinstance(flag, bool):
        refuse(f"text_accuracy_na is {_short(flag)}, which is neither true nor false")
    if flag:
        return None
    value = _value(reply, "text_accuracy")
    absent = value is None or (isinstance(value, str) and value.strip().lower() in _NOT_APPLICABLE)
    if absent and "text_accuracy_na" in reply:
        refuse("text_accuracy has no grade although text_accuracy_na is false")
    return None if absent else read_grade(reply, "text_accuracy", scale=IMAGE_SCALE)


def read_rationale(reply: Json) -> str:
    """Text for people, shortened."""
    value = _value(reply, "rationale")
    if not isinstance(value, str):
        refuse(f"rationale is {_short(value)}, which is no text")
    return value[:MAX_RATIONALE_CHARS]


def refuse(why: str) -> NoReturn:
    """The one error of every reader: asked again is likely to help."""
    raise JudgeError(f"the judge's reply is no verdict: {why}", error_type="BadReply")


def _value(reply: Json, name: str) -> Any:
    if name not in reply:
        refuse(f"{name} is missing")
    return reply[name]


def _short(value: Any) -> str:
    scalar = value is None or isinstance(value, str | int | float)
    return f"{value!r:.40}" if scalar else f"a {type(value).__name__}"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
