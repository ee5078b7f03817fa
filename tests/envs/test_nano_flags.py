import itertools
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.nano.flags import (
    COLOURS,
    DIGIT_MASKS,
    FLAG_ROWS,
    LAYOUTS,
    SYMBOL_MASKS,
    SYMBOLS,
    Flag,
    PartialFlag,
    describe,
    draw,
    encode_png,
    named_reference,
    parse_description,
    random_flag,
)

FLAG = Flag(
    layout="halves",
    field="red",
    second="white",
    symbol="star",
    symbol_colour="blue",
    banner="47",
)

flags = st.builds(
    lambda seed, banner: random_flag(random.Random(seed), banner=banner),
    st.integers(0, 2**32),
    st.booleans(),
)


def test_describe_says_every_attribute_in_bare_words() -> None:
    assert describe(FLAG) == "red white halves blue star banner 47"
    plain = replace(FLAG, layout="plain", second=None, banner=None)
    assert describe(plain) == "red plain blue star"


@given(flags)
def test_parse_description_inverts_describe(flag: Flag) -> None:
    assert asdict(parse_description(describe(flag))) == asdict(flag)


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    parse_description(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", PartialFlag()),
        ("The flag of Zorvia, founded 1947.", PartialFlag()),
        ("flag of the first reference image, banner 47", PartialFlag(banner="47")),
        ('with the banner text "47"', PartialFlag(banner="47")),
        ("banner 09", PartialFlag()),
        ("banner 147", PartialFlag()),
        ("A blue star.", PartialFlag(symbol="star", symbol_colour="blue")),
        ("red halves", PartialFlag(layout="halves", field="red")),
        (
            "red and white columns with a green ring",
            PartialFlag(
                layout="columns", field="red", second="white", symbol="ring", symbol_colour="green"
            ),
        ),
        ("a star, no: a circle", PartialFlag(symbol="circle")),
    ],
)
def test_parse_description_reads_parts_and_ignores_the_rest(
    text: str, expected: PartialFlag
) -> None:
    assert parse_description(text) == expected


@pytest.mark.parametrize(
    ("text", "num_references", "expected"),
    [
        ("the flag", 2, 0),
        ("the flag of the second reference image", 2, 1),
        ("Second image, banner 47", 3, 1),
        ("third reference image", 2, 0),
        ("the second king; third image", 3, 2),
        ("the flag", 0, 0),
    ],
)
def test_named_reference_counts_by_ordinals(text: str, num_references: int, expected: int) -> None:
    assert named_reference(text, num_references=num_references) == expected


def test_the_year_stands_only_in_the_strip() -> None:
    with_year, without = draw(FLAG), draw(replace(FLAG, banner=None))
    assert (with_year[:FLAG_ROWS] == without[:FLAG_ROWS]).all()
    assert (without[FLAG_ROWS:] == COLOURS["white"]).all()
    four, seven = DIGIT_MASKS[0]["4"], DIGIT_MASKS[1]["7"]
    black = (with_year == COLOURS["black"]).all(axis=-1)
    assert (black == (four | seven)).all()


def test_halves_puts_the_second_colour_below() -> None:
    picture = draw(FLAG)
    assert tuple(picture[0, 0]) == COLOURS["red"]
    assert tuple(picture[FLAG_ROWS - 1, 0]) == COLOURS["white"]
    assert tuple(picture[FLAG_ROWS // 2, 16]) == COLOURS["blue"]


def test_symbols_differ_in_many_pixels() -> None:
    for one, other in itertools.combinations(SYMBOLS, 2):
        assert int((SYMBOL_MASKS[one] ^ SYMBOL_MASKS[other]).sum()) >= 50, (one, other)


def test_layouts_differ_outside_the_symbol() -> None:
    base = {"field": "red", "symbol": "bars", "symbol_colour": "blue", "banner": None}
    pictures = [
        draw(Flag(layout=layout, second=None if layout == "plain" else "white", **base))
        for layout in LAYOUTS
    ]
    for one, other in itertools.combinations(pictures, 2):
        assert int((one != other).any(axis=-1).sum()) >= 100


def test_png_of_a_picture_is_always_the_same() -> None:
    data = encode_png(draw(FLAG))
    assert data == encode_png(draw(FLAG))
    assert data.startswith(b"\x89PNG")
    assert draw(FLAG).dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layout": "stripes"}, "layout"),
        ({"field": "pink"}, "field"),
        ({"symbol": "heart"}, "symbol"),
        ({"symbol_colour": ""}, "symbol_colour"),
        ({"second": None}, "second"),
        ({"second": "pink"}, "second"),
        ({"layout": "plain"}, "second"),
        ({"banner": "1947"}, "banner"),
        ({"banner": "07"}, "banner"),
    ],
)
def test_a_flag_outside_the_tables_is_refused(change: dict[str, str], field: str) -> None:
    with pytest.raises(ValueError, match=f"Flag.{field} is"):
        replace(FLAG, **change)
