"""Fixed (prompt, image, ground truth) rows of the nano world, to see whether a judge drifts.

Each of eight quests is drawn as one of: right, with another banner, with another symbol, or as
another flag, so that every grade of a scale is likely to be given by some row.
"""

import random
from dataclasses import replace
from typing import Final

from core.protocols import ImageStore
from core.records import ImageRef
from envs.nano.flags import SYMBOL_MASKS, Flag, draw, encode_png, random_flag
from envs.nano.tasks import QuestStream
from envs.nano.world import World

NUM_ROWS: Final = 8


def canary_rows(store: ImageStore) -> tuple[tuple[str, ImageRef, ImageRef], ...]:
    """(prompt, image, ground truth) by row; the images are put into `store`."""
    stream = QuestStream(World(), "train", seed="canary")
    rows = []
    for number in range(NUM_ROWS):
        quest = stream.quest(number)
        drawn = _spoilt(quest.flag, number, random.Random(f"canary {number}"))
        image, truth = (store.put(encode_png(draw(flag))) for flag in (drawn, quest.flag))
        rows.append((quest.prompt, image, truth))
    return tuple(rows)


def _spoilt(flag: Flag, number: int, rng: random.Random) -> Flag:
    match number % 4:
        case 0:
            return flag
        case 1:
            return replace(flag, banner=random_flag(rng, banner=True).banner)
        case 2:
            others = sorted(set(SYMBOL_MASKS) - {flag.symbol})
            return replace(flag, symbol=rng.choice(others))
        case _:
            return random_flag(rng, banner=True)
