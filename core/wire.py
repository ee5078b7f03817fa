"""Rows of token ids as bytes, for what travels between processes.

The prompts of an episode repeat each other: every one begins the next. A row that begins another
is kept as a length, so that an episode of 10 turns costs as much as its last context, not as all.
Python's own pickle would write and read every id of every row as an object.
"""

from array import array
from collections.abc import Sequence

Row = tuple[int, ...]
PackedRow = tuple[int, int, bytes]
"""The row that it begins, by number, its length, and nothing; or -1, its length, and its ids."""


def pack_rows(rows: Sequence[Row]) -> tuple[PackedRow, ...]:
    """Of rows that begin each other, give the longest first: a row is looked for in those that were
    kept whole before it. Raises OverflowError for an id of 2**31 or more."""
    packed: list[PackedRow] = []
    whole: list[int] = []
    for number, row in enumerate(rows):
        begun = next((w for w in reversed(whole) if rows[w][: len(row)] == row), None)
        if begun is None:
            whole.append(number)
            packed.append((-1, len(row), array("i", row).tobytes()))
        else:
            packed.append((begun, len(row), b""))
    return tuple(packed)


def unpack_rows(packed: Sequence[PackedRow]) -> list[Row]:
    rows: list[Row] = []
    for begun, length, ids in packed:
        rows.append(tuple(array("i", ids)) if begun < 0 else rows[begun][:length])
    return rows
