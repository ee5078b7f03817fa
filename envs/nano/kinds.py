"""The kinds of things the nano encyclopedia knows, and the KnowGen category each stands for.

A thing belongs to one country ("Melka festival: held in Torvi") or is named after another thing.
The categories are those of KnowGen (arXiv 2603.28767, section 3.1), less the multi-subject ones.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """Example: `Kind("festival", "held in", "is held", "culture")`."""

    word: str
    relation: str
    """How its page names the country."""
    clause: str
    """How a prompt does: "the country where the Melka festival <clause>"."""
    category: str


KINDS: Final = (
    Kind("comet", "seen in", "was seen", "astronomy"),
    Kind("bird", "nests in", "nests", "biology"),
    Kind("salt", "mined in", "is mined", "chemistry"),
    Kind("magnet", "kept in", "is kept", "physics"),
    Kind("bridge", "built in", "was built", "engineering"),
    Kind("clinic", "based in", "is based", "medicine"),
    Kind("guild", "works in", "works", "industry"),
    Kind("tower", "stands in", "stands", "architecture"),
    Kind("queen", "ruled in", "ruled", "history"),
    Kind("river", "flows in", "flows", "geography"),
    Kind("temple", "hidden in", "is hidden", "religion"),
    Kind("senate", "meets in", "meets", "politics"),
    Kind("festival", "held in", "is held", "culture"),
    Kind("painter", "born in", "was born", "art"),
    Kind("team", "trains in", "trains", "sports"),
    Kind("anime", "drawn in", "was drawn", "anime"),
    Kind("game", "played in", "is played", "game"),
    Kind("film", "shot in", "was shot", "film"),
    Kind("singer", "lives in", "lives", "celebrities"),
    Kind("poster", "hung in", "was hung", "posters"),
    Kind("newspaper", "read in", "is read", "news"),
)

COUNTRY_CATEGORY: Final = "geography"
"""Category of prompts that name the country themselves."""
GIVEN_CATEGORY: Final = "art"
"""Category of prompts that give every attribute."""
