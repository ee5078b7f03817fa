"""The JSON schema of a reply, for endpoints that decode by one."""

from collections.abc import Mapping, Sequence
from typing import Any

RATIONALE_CHARS = 600
"""Asked for; a longer one is accepted where no schema decides."""


def reply_schema(
    scales: Mapping[str, Sequence[float]], *, nullable: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """An object with a rationale first, then one grade of each scale; `nullable` may be null."""
    grades = {
        name: {"enum": [*_plain(scale), *([None] if name in nullable else [])]}
        for name, scale in scales.items()
    }
    return {
        "type": "object",
        "properties": {"rationale": {"type": "string", "maxLength": RATIONALE_CHARS}, **grades},
        "required": ["rationale", *grades],
        "additionalProperties": False,
    }


def _plain(scale: Sequence[float]) -> list[float]:
    """Whole grades as JSON integers: 1, not 1.0."""
    return [int(level) if level == int(level) else level for level in scale]
