"""Prompts whose last references are left out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.answers import ORDINALS
from envs.references import keep_first_references, places_named


@pytest.mark.parametrize(
    ("prompt", "total", "kept", "expected"),
    [
        (
            "A tower from the fourth reference image beside the hat of the first reference image.",
            4,
            3,
            "A tower beside the hat of the first reference image.",
        ),
        ("The fourth reference image shows the hat.", 4, 3, "The description shows the hat."),
        (
            "Use the first, third and fourth reference images.",
            4,
            3,
            "Use the first and third reference images.",
        ),
        (
            "Use the second to fourth reference images.",
            4,
            2,
            "Use the second reference image.",
        ),
        ("Dress as in Image 4, face of image 1.", 4, 3, "Dress, face of image 1."),
        ("Mix reference images 2-4.", 4, 3, "Mix reference images 2 and 3."),
        ("Follow the last reference image.", 3, 2, "Follow the description."),
        ("Like the 4th reference photo, a storm.", 4, 1, "a storm."),
        ("Both reference images agree.", 2, 1, "The reference image agree."),
        ("Blend all four reference images.", 4, 2, "Blend the two reference images."),
        ("A poster of the first reference image, 1920.", 1, 0, "A poster, 1920."),
        ("Copy the reference image.", 1, 0, "Copy the description."),
        ("The image 50 of a series, the first edition.", 4, 1, None),
        ("An image 16:9, the second tower, image 3.5 wide.", 4, 1, None),
        ("The fifth reference image.", 5, 5, None),
    ],
)
def test_what_becomes_of_a_prompt(prompt: str, total: int, kept: int, expected: str | None) -> None:
    found = keep_first_references(prompt, total=total, kept=kept)
    assert found == (prompt if expected is None else expected)


@pytest.mark.parametrize(
    "text",
    [
        "A 3D image, Figure 4 of a book, image 3D style, the 5th image of a series.",
        "A picture 4 metres wide of a photo 5 years old.",
        "A crowd with photos 4 and 5 years old, picture 4 people on stage.",
        "The fourth reference book on a shelf of ten reference books.",
        "The last reference to the king, both references to Homer.",
        "The mural references 5 paintings.",
        'A sign that reads "Photo 5", and \u201cImage 4\u201d on the wall.',
    ],
)
def test_text_that_only_looks_like_a_mention_stays(text: str) -> None:
    assert keep_first_references(text, total=5, kept=2) == text
    assert places_named(text, total=5) == ()


def test_a_mention_beside_such_text_still_goes() -> None:
    prompt = 'The words "Photo 5" in the style of image 4, with reference to the third reference.'
    found = keep_first_references(prompt, total=5, kept=2)
    assert found == 'The words "Photo 5",.'


WORDS = st.text("abcdefghij ,.'", max_size=12).map(lambda text: f" {text} ")
PLACES = st.lists(st.integers(1, 10), min_size=1, max_size=4, unique=True).map(sorted)


@st.composite
def mentions(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A way of pointing at some places, in words or numbers."""
    places = draw(PLACES)
    names = [ORDINALS[place - 1] for place in places]
    noun = "images" if len(places) > 1 else "image"
    joined = " and ".join([", ".join(names[:-1]), names[-1]]) if names[1:] else names[0]
    counted = ", ".join(map(str, places))
    text = draw(
        st.sampled_from(
            [
                f"the {joined} reference {noun}",
                f"of the {joined} reference {noun}",
                f"reference {noun} {counted}",
                f"from {noun.capitalize()} {counted}",
            ]
        )
    )
    return text, places


@given(st.lists(st.tuples(WORDS, mentions()), max_size=5), WORDS, st.integers(0, 10))
def test_kept_places_still_point_and_dropped_ones_are_gone(
    parts: list[tuple[str, tuple[str, list[int]]]], end: str, kept: int
) -> None:
    prompt = "".join(f"{words};{text};" for words, (text, _) in parts) + end
    pointed = [place for _, (_, places) in parts for place in places]
    assert list(places_named(prompt, total=10)) == pointed

    found = keep_first_references(prompt, total=10, kept=kept)

    expected = [place for place in pointed if place <= kept]
    assert list(places_named(found, total=10)) == expected
    for place in range(kept + 1, 11):  # by plain words too, not only by our own reading
        assert not re.search(rf"\b{ORDINALS[place - 1]}\b", found)
        assert not re.search(rf"\b{place}\b", found)
    for words, _ in parts:
        assert words.strip(" ,") in found, "what points at nothing stays"


@given(st.text(max_size=200), st.integers(0, 10), st.integers(0, 10))
def test_any_text_comes_out_without_a_place_too_many(text: str, total: int, kept: int) -> None:
    found = keep_first_references(text, total=total, kept=kept)
    if kept >= total:
        assert found == text
    else:
        assert all(place <= kept or place > total for place in places_named(found, total=total))
        assert keep_first_references(found, total=total, kept=kept) == found


PIECES = (
    *("the", "first", "second", "fourth", "last", "10th", "both", "two", "all"),
    *("to", "-", ",", "and", "of", "from", "2", "4", "#3"),
    *("reference", "image", "images", "picture", "photo"),
)
ADVERSARIAL = st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join)


@given(ADVERSARIAL, st.integers(1, 5), st.integers(0, 4))
def test_pieces_of_mentions_never_add_up_to_a_dropped_one(text: str, total: int, kept: int) -> None:
    found = keep_first_references(text, total=total, kept=kept)
    if kept < total:
        assert not [p for p in places_named(found, total=total) if kept < p <= total]
