"""Names of the nano world: pairs of syllables, split so that no held-out name is ever trained on.

A name is one of 64 first syllables and one of 64 second ones ("Tor" + "vi"). Every syllable occurs
in names of both splits, so a policy that has seen the syllables can copy a name that it never saw.
"""

import random
from functools import cache
from typing import Final, Literal

Split = Literal["train", "heldout"]
SPLITS: Final[tuple[Split, ...]] = ("train", "heldout")

_VOWELS: Final = "aeio"
_CODAS: Final = "rlnm"
_FIRST_ONSETS: Final = (*"BDFGKLMNPRSTVZ", "Dr", "Tr")
_SECOND_ONSETS: Final = (*"bdfgklmnpstvz", "sh", "th", "ch")
_HELD_OUT: Final = 1024

FIRST_SYLLABLES: Final = tuple(
    onset + vowel + _CODAS[(i + j) % len(_CODAS)]
    for i, onset in enumerate(_FIRST_ONSETS)
    for j, vowel in enumerate(_VOWELS)
)
SECOND_SYLLABLES: Final = tuple(onset + vowel for onset in _SECOND_ONSETS for vowel in _VOWELS)


@cache
def names(split: Split) -> tuple[str, ...]:
    """All names of one split: 3072 to train on, 1024 held out, none in both."""
    pairs = [first + second for first in FIRST_SYLLABLES for second in SECOND_SYLLABLES]
    random.Random("nano names").shuffle(pairs)
    return tuple(pairs[:_HELD_OUT] if split == "heldout" else pairs[_HELD_OUT:])
