"""Reads a flag's attributes back from pixels, given the tables that flags are drawn from.

In: image bytes and `DrawingTables`. Out: a `Reading`. Raises `ValueError` for bytes that are no
image; a picture that shows no flag still gets a reading, with a large residual.
Distances are Euclidean in RGB, 0..255.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ILLEGIBLE_DIGIT: Final = 100.0
"""Mean distance to the best digit from which on it counts as no digit."""


class Attributes(Protocol):
    """What a text or a picture says of a flag; None where it says nothing."""

    @property
    def layout(self) -> str | None: ...
    @property
    def field(self) -> str | None: ...
    @property
    def second(self) -> str | None: ...
    @property
    def symbol(self) -> str | None: ...
    @property
    def symbol_colour(self) -> str | None: ...
    @property
    def banner(self) -> str | None: ...


class NamedReference(Protocol):
    def __call__(self, text: str, *, num_references: int) -> int:
        """The index of the reference that a prompt points at."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingTables:
    """How flags are drawn and named; all masks are [size, size]."""

    size: int
    flag_rows: int
    """The flag fills rows 0..flag_rows-1, the banner's white strip the rest."""
    colours: Mapping[str, tuple[int, int, int]]
    paper: str
    ink: str
    """The banner's colours, by name."""
    layouts: Mapping[str, Mask]
    """Where the second colour goes."""
    symbols: Mapping[str, Mask]
    digits: tuple[Mapping[str, Mask], ...]
    """Ink of every digit, at each place of the banner from left to right."""
    parse_prompt: Callable[[str], Attributes]
    named_reference: NamedReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What stands in a picture."""

    layout: str
    field: str
    second: str | None
    symbol: str | None
    symbol_colour: str | None
    digits: tuple[str | None, ...]
    """Per place of the banner; None where the paper is empty."""
    residual: float
    """Mean distance of the flag's pixels to a redrawing of the reading."""
    impurity: float
    """Mean distance of all pixels to the nearest colour of the palette."""

    @property
    def banner(self) -> str | None:
        read = [digit for digit in self.digits if digit is not None]
        return "".join(read) if len(read) == len(self.digits) else None


class FlagReader:
    """Reads flags: per attribute the table entry with the smallest squared error."""

    def __init__(self, tables: DrawingTables) -> None:
        self._tables = tables
        self._names = tuple(tables.colours)
        self._palette = np.array([tables.colours[name] for name in self._names], np.float64)
        self._paper = np.array(tables.colours[tables.paper], np.float64)
        self._ink = np.array(tables.colours[tables.ink], np.float64)
        self._flag = np.zeros((tables.size, tables.size), np.bool_)
        self._flag[: tables.flag_rows] = True
        self._core = np.logical_or.reduce(list(tables.symbols.values()))

    def read(self, data: bytes) -> Reading:
        """Raises ValueError when `data` is no image."""
        pixels = self._decode(data)
        ground, layout, field, second = self._read_ground(pixels)
        redrawn, symbol, symbol_colour = self._read_symbol(pixels, ground)
        distances = np.linalg.norm(pixels[:, :, None] - self._palette, axis=-1)
        off = np.linalg.norm(pixels - redrawn, axis=-1)
        return Reading(
            layout=layout,
            field=field,
            second=second,
            symbol=symbol,
            symbol_colour=symbol_colour,
            digits=tuple(self._read_digits(pixels)),
            residual=float(off[self._flag].mean()),
            impurity=float(distances.min(axis=-1).mean()),
        )

    def _decode(self, data: bytes) -> Pixels:
        try:
            with Image.open(io.BytesIO(data)) as image:
                side = (self._tables.size, self._tables.size)
                rgb = image.convert("RGB").resize(side, Image.Resampling.BOX)
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"not a readable image: {error}") from error
        return np.asarray(rgb, np.float64)

    def _nearest(self, pixels: Pixels) -> int:
        """Index of the colour nearest to the median of pixels [n, 3]."""
        away = np.linalg.norm(self._palette - np.median(pixels, axis=0), axis=-1)
        return int(away.argmin())

    def _read_ground(self, pixels: Pixels) -> tuple[Pixels, str, str, str | None]:
        """Layout and colours from the pixels around the symbol, and their redrawing."""
        zone = self._flag & ~self._core
        best: tuple[float, Pixels, str, str, str | None] | None = None
        for layout, mask in self._tables.layouts.items():
            field = self._nearest(pixels[zone & ~mask])
            second = self._nearest(pixels[zone & mask]) if mask.any() else None
            if second == field:
                continue
            ground = np.broadcast_to(self._palette[field], pixels.shape).copy()
            if second is not None:
                ground[mask] = self._palette[second]
            error = float(((pixels - ground)[zone] ** 2).sum())
            if best is None or error < best[0]:
                named = None if second is None else self._names[second]
                best = (error, ground, layout, self._names[field], named)
        assert best is not None, "the layout without a second colour always fits"
        return best[1:]

    def _read_symbol(self, pixels: Pixels, ground: Pixels) -> tuple[Pixels, str | None, str | None]:
        """Symbol and its colour over `ground`, and the redrawing; None where nothing stands."""
        error = float(((pixels - ground)[self._core] ** 2).sum())
        best: tuple[float, Pixels, str | None, str | None] = (error, ground, None, None)
        for symbol, mask in self._tables.symbols.items():
            colour = self._nearest(pixels[mask])
            drawn = ground.copy()
            drawn[mask] = self._palette[colour]
            error = float(((pixels - drawn)[self._core] ** 2).sum())
            if error < best[0]:
                best = (error, drawn, symbol, self._names[colour])
        return best[1:]

    def _read_digits(self, pixels: Pixels) -> Iterator[str | None]:
        """The digit at each place, which owns an equal share of the strip's columns."""
        shares = np.array_split(np.arange(self._tables.size), len(self._tables.digits))
        for columns, masks in zip(shares, self._tables.digits, strict=True):
            place = (slice(self._tables.flag_rows, None), slice(columns[0], columns[-1] + 1))
            yield self._read_digit(pixels[place], {d: mask[place] for d, mask in masks.items()})

    def _read_digit(self, pixels: Pixels, masks: Mapping[str, Mask]) -> str | None:
        """None when empty paper fits better, or when no digit is legible."""
        off_paper = np.linalg.norm(pixels - self._paper, axis=-1)
        off_ink = np.linalg.norm(pixels - self._ink, axis=-1)

        def misfit(mask: Mask) -> float:
            return float(np.where(mask, off_ink, off_paper).mean())

        best = min(masks, key=lambda digit: misfit(masks[digit]))
        legible = misfit(masks[best]) < min(float(off_paper.mean()), ILLEGIBLE_DIGIT)
        return best if legible else None
