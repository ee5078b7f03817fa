"""KnowGen's categories and the two groups over which its scores are averaged (arXiv 2603.28767)."""

from collections.abc import Mapping
from types import MappingProxyType

SCIENCE_AND_KNOWLEDGE = "science_and_knowledge"
POP_CULTURE_AND_NEWS = "pop_culture_and_news"

_CATEGORIES = {
    SCIENCE_AND_KNOWLEDGE: (
        *("astronomy", "biology", "chemistry", "physics", "engineering", "medicine", "industry"),
        *("architecture", "history", "geography", "religion", "politics", "culture", "art"),
        "sports",
    ),
    POP_CULTURE_AND_NEWS: (
        *("anime", "game", "film", "celebrities", "posters", "news"),
        *("multi-subject-anime", "multi-subject-celebrities", "multi-subject-game"),
    ),
}

CATEGORY_GROUPS: Mapping[str, str] = MappingProxyType(
    {category: group for group, categories in _CATEGORIES.items() for category in categories}
)
"""Category in lower case -> its group."""
