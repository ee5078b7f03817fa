"""Wires the nano world's drawing tables to the pixel judge, which may not import the world."""

from core.protocols import ImageStore
from envs.nano import flags
from rewards.flag_reader import DrawingTables
from rewards.pixels import PixelJudge


def nano_tables() -> DrawingTables:
    """How the nano world draws and names its flags."""
    return DrawingTables(
        size=flags.SIZE,
        flag_rows=flags.FLAG_ROWS,
        colours=flags.COLOURS,
        paper="white",
        ink="black",
        layouts=flags.LAYOUT_MASKS,
        symbols=flags.SYMBOL_MASKS,
        digits=flags.DIGIT_MASKS,
        parse_prompt=flags.parse_description,
        named_reference=flags.named_reference,
    )


def nano_judge(*, store: ImageStore) -> PixelJudge:
    return PixelJudge(nano_tables(), store=store)
