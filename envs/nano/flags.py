"""Flags of the nano world: what they consist of, how they are drawn and which words name them.

In: attributes (`Flag`) or a text that names some of them. Out: pixels, PNG bytes, or bare words.
A picture is 32x32: the flag fills rows 0..20, a white strip fills rows 21..31. The strip is empty
in every image of the nano encyclopedia and holds two black digits in ground-truth images, so
colours, layout and symbol stand only in images, the banner's year only in text.
Fails with `ValueError` for an attribute outside the tables; texts never fail, unknown words count
for nothing.
"""

import io
import random
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

SIZE: Final = 32
FLAG_ROWS: Final = 21

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (215, 35, 40),
    "blue": (35, 65, 205),
    "green": (25, 150, 60),
    "yellow": (245, 215, 40),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "purple": (130, 45, 160),
    "cyan": (70, 205, 225),
}

_DIGIT_ROWS: Final = {
    "0": "111 101 101 101 111",
    "1": "010 110 010 010 111",
    "2": "111 001 111 100 111",
    "3": "111 001 011 001 111",
    "4": "101 101 111 001 001",
    "5": "111 100 111 001 111",
    "6": "100 100 111 101 111",
    "7": "111 001 010 010 010",
    "8": "111 101 111 101 111",
    "9": "111 101 111 001 001",
}
_DIGIT_SCALE: Final = 2
_DIGIT_TOP: Final = 22
_DIGIT_LEFTS: Final = (8, 18)  # left columns of the tens and the ones


def _layout_masks() -> dict[str, Mask]:
    """Where the second colour goes, per layout; [32, 32], False in the strip."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    flag = y < FLAG_ROWS
    edge = 3
    inside = (y >= edge) & (y < FLAG_ROWS - edge) & (x >= edge) & (x < SIZE - edge)
    return {
        "plain": np.zeros((SIZE, SIZE), np.bool_),
        "halves": flag & (y > FLAG_ROWS // 2),
        "columns": flag & (x >= SIZE // 2),
        "diagonal": flag & (x * FLAG_ROWS + y * SIZE >= SIZE * FLAG_ROWS),
        "border": flag & ~inside,
    }


def _symbol_masks() -> dict[str, Mask]:
    """Where the symbol's colour goes; every symbol fills most of a 13x14 box in the centre."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    down, right = y - FLAG_ROWS // 2, x - (SIZE - 1) / 2
    box = (np.abs(down) <= 6) & (np.abs(right) <= 6.5)
    radius = np.hypot(down, right)
    return {
        "circle": radius <= 6.6,
        "ring": (radius <= 6.9) & (radius > 3.6),
        "triangle": box & (np.abs(right) <= (down + 7) * 0.54),
        "cross": box & ((np.abs(right) <= 1.5) | (np.abs(down) <= 1)),
        "star": box & _star(down + 0.6, right),
        "bars": box & (np.abs(np.abs(right) - 4.5) <= 2),
    }


def _star(down: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> Mask:
    """A five-pointed star: pixels on the inner side of at least four of the pentagram's lines."""
    line_distance = 2.4
    inside = np.zeros(down.shape, np.int64)
    for point in range(5):
        angle = np.pi / 2 + point * 2 * np.pi / 5
        inside += right * np.cos(angle) - down * np.sin(angle) <= line_distance
    return inside >= 4


def _digit_mask(digit: str, *, left: int) -> Mask:
    bits = [[bit == "1" for bit in row] for row in _DIGIT_ROWS[digit].split()]
    glyph = np.kron(np.array(bits), np.ones((_DIGIT_SCALE, _DIGIT_SCALE), np.bool_))
    mask = np.zeros((SIZE, SIZE), np.bool_)
    rows, columns = glyph.shape
    mask[_DIGIT_TOP : _DIGIT_TOP + rows, left : left + columns] = glyph
    return mask


LAYOUT_MASKS: Final = _layout_masks()
SYMBOL_MASKS: Final = _symbol_masks()
DIGIT_MASKS: Final = tuple(
    {digit: _digit_mask(digit, left=left) for digit in _DIGIT_ROWS} for left in _DIGIT_LEFTS
)
"""Black pixels of every digit at the tens' and at the ones' place."""

LAYOUTS: Final = tuple(LAYOUT_MASKS)
SYMBOLS: Final = tuple(SYMBOL_MASKS)
PLAIN: Final = "plain"
BANNER: Final = "banner"
ORDINALS: Final = ("first", "second", "third")
"""How a prompt counts its references: "the flag of the second reference image"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag.

    Example: `Flag(layout="halves", field="red", second="white", symbol="star",
    symbol_colour="blue", banner="47")`.
    """

    layout: str
    field: str
    second: str | None
    "None exactly for the plain layout, which has one colour."
    symbol: str
    symbol_colour: str
    banner: str | None
    "Two digits, '10'..'99', or None for an empty strip."

    def __post_init__(self) -> None:
        _check("layout", self.layout, LAYOUTS)
        _check("symbol", self.symbol, SYMBOLS)
        _check("field", self.field, tuple(COLOURS))
        _check("symbol_colour", self.symbol_colour, tuple(COLOURS))
        if self.second is not None:
            _check("second", self.second, tuple(COLOURS))
        if (self.second is None) != (self.layout == PLAIN):
            raise ValueError(
                f"Flag.second is {self.second!r} for layout {self.layout!r}; "
                "give a second colour to every layout but 'plain'"
            )
        if self.banner is not None and not _is_year(self.banner):
            raise ValueError(f"Flag.banner is {self.banner!r}; give two digits, '10' to '99'")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialFlag:
    """The attributes that a text names; None where it says nothing."""

    layout: str | None = None
    field: str | None = None
    second: str | None = None
    symbol: str | None = None
    symbol_colour: str | None = None
    banner: str | None = None


def draw(flag: Flag) -> Picture:
    """The picture of a flag, uint8 [32, 32, 3] RGB."""
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    picture[:] = COLOURS["white"]
    picture[:FLAG_ROWS] = COLOURS[flag.field]
    if flag.second is not None:
        picture[LAYOUT_MASKS[flag.layout]] = COLOURS[flag.second]
    picture[SYMBOL_MASKS[flag.symbol]] = COLOURS[flag.symbol_colour]
    if flag.banner is not None:
        for masks, digit in zip(DIGIT_MASKS, flag.banner, strict=True):
            picture[masks[digit]] = COLOURS["black"]
    return picture


def describe(flag: Flag) -> str:
    """Bare words for a flag, such as `red white halves blue star banner 47`."""
    words = [flag.field, flag.second, flag.layout, flag.symbol_colour, flag.symbol]
    if flag.banner is not None:
        words += [BANNER, flag.banner]
    return " ".join(word for word in words if word is not None)


def parse_description(text: str) -> PartialFlag:
    """The attributes that `text` names, the inverse of `describe` for any part of it.

    A colour belongs to the next layout or symbol word; a banner is the two digits after the word
    `banner`. Other words are ignored; of two statements about one attribute the last one holds.
    """
    named: dict[str, str] = {}
    colours: list[str] = []
    after_banner = False
    for word in re.findall(r"[a-z]+|[0-9]+", text.lower()):
        if word in COLOURS:
            colours.append(word)
        elif word in LAYOUT_MASKS:
            wanted = 1 if word == PLAIN else 2
            named["layout"] = word
            named.update(zip(("field", "second"), colours[-wanted:], strict=False))
            if word == PLAIN:
                named.pop("second", None)
            colours = []
        elif word in SYMBOL_MASKS:
            named["symbol"] = word
            if colours:
                named["symbol_colour"] = colours[-1]
            colours = []
        elif after_banner and _is_year(word):
            named["banner"] = word
        after_banner = word == BANNER or (after_banner and word.isalpha())
    return PartialFlag(**named)


def named_reference(text: str, *, num_references: int) -> int:
    """The index of the reference that `text` points at: 1 for "second reference image".

    0, the first, if it points at none or at one that there is not; of several ordinals the first
    one holds.
    """
    found = re.search(rf"\b({'|'.join(ORDINALS)})\s+(?:reference|image)", text.lower())
    index = ORDINALS.index(found.group(1)) if found else 0
    return index if index < num_references else 0


def random_flag(rng: random.Random, *, banner: bool = False) -> Flag:
    """A flag drawn uniformly, with three different colours; with a random year if `banner`."""
    layout = rng.choice(LAYOUTS)
    field, second, symbol_colour = rng.sample(tuple(COLOURS), 3)
    return Flag(
        layout=layout,
        field=field,
        second=None if layout == PLAIN else second,
        symbol=rng.choice(SYMBOLS),
        symbol_colour=symbol_colour,
        banner=str(rng.randint(10, 99)) if banner else None,
    )


def encode_png(picture: Picture) -> bytes:
    """PNG bytes of a picture; equal pictures give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture, "RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"Flag.{field} is {value!r}; use one of {', '.join(allowed)}")


def _is_year(word: str) -> bool:
    return len(word) == 2 and word.isascii() and word.isdigit() and word[0] != "0"
