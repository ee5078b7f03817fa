"""Replies become grades or JudgeErrors, never invented numbers."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import JudgeError
from rewards.replies import (
    IMAGE_SCALE,
    TEXT_SCALE,
    read_grade,
    read_object,
    read_rationale,
    read_text_accuracy,
)
from rewards.wise import GRADE_WEIGHTS, TOP_GRADE, WiseEdition, parse_wise

GRADES = {"faithfulness": 1, "visual_correctness": 0.5, "aesthetics": 0}
GOOD = json.dumps({"rationale": "fine", **GRADES, "text_accuracy": None})


def read_all(text: str) -> tuple[float | None, ...]:
    """As the image judge reads a reply."""
    reply = read_object(text)
    read_rationale(reply)
    named = (read_grade(reply, name, scale=IMAGE_SCALE) for name in GRADES)
    return (*named, read_text_accuracy(reply))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  \n{GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}```",
        f"Here you are: {GOOD} I hope that helps.",
        f"<think>1 or 0.5?\n{{draft}}</think>\n{GOOD}",
        GOOD.replace("0.5", '"0.5"').replace(": 1", ': "1.0"'),
        GOOD.replace("null", '"N/A"'),
        GOOD.replace("null", '0.5, "text_accuracy_na": true'),
        GOOD.replace("null", 'null, "text_accuracy_na": "True"'),
    ],
)
def test_a_reply_whose_meaning_is_certain_is_read(text: str) -> None:
    assert read_all(text) == (1.0, 0.5, 0.0, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON object"),
        ("[1]", "no JSON object"),
        ("{}", "rationale is missing"),
        (GOOD[:-5], "cannot be read"),
        (GOOD.replace('"aesthetics": 0, ', ""), "aesthetics is missing"),
        (GOOD.replace("0.5", "0.6"), "0.6, which is none of 0, 0.5, 1"),
        (GOOD.replace(": 1", ": 10"), "10, which is none of"),
        (GOOD.replace(": 1", ": true"), "True, which is no number"),
        (GOOD.replace(": 1", ': "one"'), "'one', which is no number"),
        (GOOD.replace(": 1", ': "1 of 1"'), "no number"),
        (GOOD.replace(": 1", ': "-1"'), "no number"),
        (GOOD.replace(": 1", ": null"), "None, which is no number"),
        (GOOD.replace(": 1", ": NaN"), "NaN is no JSON"),
        (GOOD.replace(": 1", ": 1e999"), "none of 0, 0.5, 1"),
        (GOOD.replace('"aesthetics"', '"faithfulness": 0, "aesthetics"'), "a key stands twice"),
        (f"{GOOD} or rather {GOOD}", "more than one JSON value"),
        (f"[{GOOD}]", "more than one JSON value"),
        (f"<think>{GOOD}", "no end"),
        (GOOD.replace("null", 'null, "text_accuracy_na": false'), "no grade although"),
        (GOOD.replace("null", 'null, "text_accuracy_na": 1'), "neither true nor false"),
        (GOOD.replace('"fine"', "3"), "rationale is 3"),
        ("{" * 100_000, "cannot be read"),
        ('{"a":' * 100_000, "cannot be read"),
        (GOOD.replace(": 1", ": " + "9" * 5000), "cannot be read"),
    ],
)
def test_an_uncertain_reply_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(JudgeError, match=why) as caught:
        read_all(text)
    assert (caught.value.retryable, caught.value.error_type) == (True, "BadReply")


@pytest.mark.parametrize(
    ("text", "grades"),
    [
        ("Consistency: 2\nRealism: 1\nAesthetic Quality: 0", (2, 1, 0)),
        ("**Consistency:** 2\n**Realism**: 1\n**Aesthetic Quality** 0\n", (2, 1, 0)),
        ("<think>2?</think>\nConsistency 2\n\nRealism: 1\nAesthetic Quality: 0", (2, 1, 0)),
        ("<think>{so}</think>Consistency: 2\nRealism: 1\nAesthetic Quality: 0", (2, 1, 0)),
        ("My grades are these.\nRealism: 1\nConsistency: 2\nAesthetic Quality: 0", (2, 1, 0)),
        ("2\n1\n0", (2, 1, 0)),
        ('{"consistency": 2, "realism": 1, "aesthetic_quality": 0}', (2, 1, 0)),
    ],
)
def test_every_format_of_the_legacy_edition_is_read(text: str, grades: tuple[int, ...]) -> None:
    assert tuple(parse_wise(text, edition="legacy").grades.values()) == grades


@pytest.mark.parametrize("text", ["Score: 1", "**Score**: 1", "Score 1\n", "1", '{"score": 1}'])
def test_every_format_of_the_verified_edition_is_read(text: str) -> None:
    assert parse_wise(text, edition="verified").grades == {"score": 1}


@pytest.mark.parametrize(
    ("text", "edition"),
    [
        ("Consistency: 2\nRealism: 1", "legacy"),
        ("Consistency: 3\nRealism: 1\nAesthetic Quality: 0", "legacy"),
        ("Consistency: 2\nConsistency: 1\nRealism: 1\nAesthetic Quality: 0", "legacy"),
        ("Consistency: 2 or 1\nRealism: 1\nAesthetic Quality: 0", "legacy"),
        ("Consistency: 20\nRealism: 1\nAesthetic Quality: 0", "legacy"),
        ("2\n1\n3", "legacy"),
        ("2\n1", "legacy"),
        ("Score: 2", "verified"),
        ("Score: 0\nScore: 1", "verified"),
        ("Score: 0.5", "verified"),
        ("I would give it a 1", "verified"),
        ("<think>Score: 1", "verified"),
        ('{"score": 0.5}', "verified"),
        ('{"score": true}', "verified"),
        ("", "verified"),
    ],
)
def test_an_uncertain_wise_reply_is_refused(text: str, edition: WiseEdition) -> None:
    with pytest.raises(JudgeError):
        parse_wise(text, edition=edition)


# -- properties: at least 20,000 examples in all -------------------------------------------------

many = settings(
    max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck), database=None
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([0, 0.25, 0.5, 0.75, 1]),
    st.floats(),
    st.sampled_from(["0.5", "1", "N/A", "high", "1/1", "", "½", "٣"]),
    st.text(max_size=6),
)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=3), SCALARS)
KEYS = (
    "rationale",
    "faithfulness",
    "visual_correctness",
    "text_accuracy",
    "aesthetics",
    "text_accuracy_na",
    "score",
    "consistency",
    "realism",
    "aesthetic_quality",
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES).map(json.dumps)


def _near_miss(draw: Callable[..., Any], text: str) -> str:
    """The text with a piece cut out, doubled or replaced."""
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from(["", text[start:end] * 2, '"', "{", "}", ",", "9", "\n", ":"]))
        text = text[:start] + piece + text[end:]
    return text


@st.composite
def replies(draw: Callable[..., Any]) -> str:
    """Valid replies, objects with odd values, both with damage; and plain noise."""
    valid = {"rationale": draw(st.text(max_size=8)), **GRADES, "text_accuracy": draw(SCALARS)}
    text = draw(st.one_of(st.just(json.dumps(valid)), OBJECTS, st.text(max_size=40)))
    around = draw(st.sampled_from(["{}", "```json\n{}\n```", "So: {}", "<think>x</think>{}"]))
    return _near_miss(draw, around.replace("{}", text))


LINES = st.sampled_from(
    [
        "Consistency: 2",
        "Realism: 1",
        "Aesthetic Quality: 0",
        "Score: 1",
        "Score: 0",
        "**Score**: 1",
        "Consistency: 12",
        "1",
        "0",
        "2",
        "",
        "Well.",
        "Realism: 1.5",
        "Score: ١",
        "<think>",
        "</think>",
    ]
)


@st.composite
def line_replies(draw: Callable[..., Any]) -> str:
    return _near_miss(draw, "\n".join(draw(st.lists(LINES, max_size=5))))


def numbers_in(text: str) -> list[float]:
    """Every number that a reader of the text could mean by a grade."""
    marks = "".join(c if c.isascii() and (c.isdigit() or c in ".+-eE") else " " for c in text)
    found = []
    for word in marks.split():
        try:
            found.append(float(word))
        except ValueError:
            found += [float(c) for c in word if c.isdigit()]
    return found


@pytest.mark.slow
@many
@given(replies())
def test_an_image_reply_gives_grades_that_it_holds_or_a_judge_error(text: str) -> None:
    try:
        grades = read_all(text)
    except JudgeError:
        return
    for grade in grades:
        assert grade is None or (grade in IMAGE_SCALE and grade in numbers_in(text))


@pytest.mark.slow
@many
@given(replies())
def test_a_text_reply_gives_a_score_that_it_holds_or_a_judge_error(text: str) -> None:
    try:
        score = read_grade(read_object(text), "score", scale=TEXT_SCALE)
    except JudgeError:
        return
    assert score in TEXT_SCALE
    assert score in numbers_in(text)


@pytest.mark.parametrize("edition", ["legacy", "verified"])
@pytest.mark.slow
@many
@given(replies() | line_replies())
def test_a_wise_reply_gives_grades_that_it_holds_or_a_judge_error(
    edition: WiseEdition, text: str
) -> None:
    try:
        verdict = parse_wise(text, edition=edition)
    except JudgeError:
        return
    assert tuple(verdict.grades) == tuple(GRADE_WEIGHTS[edition])
    for grade in verdict.grades.values():
        assert 0 <= grade <= TOP_GRADE[edition]
        assert grade in numbers_in(text)
