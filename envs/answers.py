"""The answer's JSON, read against the images that the policy was shown.

    {"gen_prompt": "..", "reference_images": [{"img_id": "IMG_003", "note": ".."}]}

In: the parsed object (envs/parsing.py) and the images shown, by id. Out: an `Answer` whose
references are in the order in which the prompt counts them, or an `AnswerError`: always the
agent's own fault, never an exception, never a guess. Rules that are mended without a doubt, or
only counted, are named among the repairs:

    duplicate_reference   mended: the first stays, and ordinals in the prompt follow
    id_in_prompt          mended: an IMG_### of a chosen image becomes "the second reference image"
    missing_note          mended: the note is empty
    reference_order       counted: references do not stand in the order of their ids
    url_in_prompt         counted: the image model cannot open it
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from core.records import Answer, AnswerError, ImageRef

MAX_REFERENCES = 5
"""Of any answer; an image model may take fewer (`EpisodeLimits.max_references`)."""
ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
)
_ORDINAL = rf"\b(?:{'|'.join(ORDINALS)})\b"
_COUNTED = re.compile(
    rf"({_ORDINAL})(?=(?:(?:,| and|, and)(?: the)? {_ORDINAL})* reference)", re.IGNORECASE
)
_IMAGE_ID = re.compile(r"\bIMG_\d{3,}\b")


def resolve_answer(
    value: Mapping[str, Any] | None,
    *,
    shown: Mapping[str, ImageRef],
    max_references: int = MAX_REFERENCES,
) -> tuple[Answer | AnswerError, tuple[str, ...]]:
    """The answer and the names of its repairs. `shown` maps "IMG_001" to its image."""
    repairs: list[str] = []
    if value is None:
        return AnswerError(reason="the answer is not a valid JSON object"), ()
    prompt = value.get("gen_prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        return AnswerError(reason="gen_prompt must be text that is not empty"), ()
    references = _references(value.get("reference_images"), repairs)
    if isinstance(references, AnswerError):
        return references, ()
    kept = list(dict.fromkeys(img_id for img_id, _ in references))
    if len(kept) > max_references:
        reason = f"{len(kept)} reference images, at most {max_references} are allowed"
        return AnswerError(reason=reason), ()
    for img_id in kept:
        if img_id not in shown:
            return AnswerError(reason=f"no image {img_id[:40]!r} was shown"), ()
    if len(kept) < len(references):
        repairs.append("duplicate_reference")
        prompt = _recount(prompt, [kept.index(img_id) for img_id, _ in references])
    if kept != sorted(kept):
        repairs.append("reference_order")
    named = _name_by_ordinal(prompt, kept)
    if named != prompt:
        repairs.append("id_in_prompt")
    if re.search(r"https?://", named):
        repairs.append("url_in_prompt")
    notes = dict(reversed(references))
    answer = Answer(
        gen_prompt=named,
        chosen=tuple(shown[img_id] for img_id in kept),
        notes=tuple(notes[img_id] for img_id in kept),
    )
    return answer, tuple(dict.fromkeys(repairs))


def _references(items: Any, repairs: list[str]) -> list[tuple[str, str]] | AnswerError:
    """(img_id, note) in the order given."""
    if not isinstance(items, list):
        return AnswerError(reason="reference_images must be a list")
    references = []
    for item in items:
        img_id = item.get("img_id") if isinstance(item, dict) else None
        if not isinstance(img_id, str):
            return AnswerError(reason='every reference image must be {"img_id": .., "note": ..}')
        note = item.get("note")
        if not isinstance(note, str):
            repairs.append("missing_note")
            note = ""
        references.append((img_id, note))
    return references


def _recount(prompt: str, new_places: Sequence[int]) -> str:
    """Rewrite "the third reference image" after earlier references moved up."""

    def renamed(match: re.Match[str]) -> str:
        place = ORDINALS.index(match[1].lower())
        return ORDINALS[new_places[place]] if place < len(new_places) else match[1]

    return _COUNTED.sub(renamed, prompt)


def _name_by_ordinal(prompt: str, kept: Sequence[str]) -> str:
    """The image model knows places, not ids. An id that was not chosen stays as it is."""

    def named(match: re.Match[str]) -> str:
        if match[0] not in kept:
            return match[0]
        return f"the {ORDINALS[kept.index(match[0])]} reference image"

    return _IMAGE_ID.sub(named, prompt)
