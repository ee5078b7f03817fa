"""The corpus is as large as it is meant to be, and no case stands in it twice."""

from tests.security.hostile_answers import BODIES, RESPONSES
from tests.security.hostile_arguments import CARRIED
from tests.security.hostile_arguments import REFUSED as ARGUMENTS
from tests.security.hostile_images import REFUSED as IMAGES
from tests.security.hostile_texts import FORGED_LINES, INJECTIONS, SPLIT_OVER_PARTS
from tests.security.hostile_urls import ANSWERS, REDIRECTS, URLS


def test_there_are_at_least_150_different_hostile_cases() -> None:
    parts = (
        *(URLS, REDIRECTS, ANSWERS, tuple(RESPONSES), tuple(BODIES), tuple(IMAGES)),
        *(INJECTIONS, SPLIT_OVER_PARTS, FORGED_LINES, ARGUMENTS, CARRIED),
    )
    for part in parts:
        assert len(set(part)) == len(part)
    assert sum(map(len, parts)) >= 150
