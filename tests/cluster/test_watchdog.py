"""What a stall says of itself. tests/cluster/test_controller.py has one under a controller."""

from pathlib import Path

import pytest

from cluster.track.timeline import Timeline
from cluster.watchdog import watch
from core.errors import StalledError


async def test_a_stall_is_named_even_when_the_stacks_cannot_be_written() -> None:
    def full_disk(text: str) -> Path:
        raise OSError(28, "No space left on device")

    timeline = Timeline(lambda span: None)
    with (
        timeline.span("render", "7.2.0"),
        pytest.raises(StalledError, match=r"render of 7\.2\.0, .* not be written: .*No space"),
    ):
        await watch(timeline, limit_s=0.02, dump=full_disk)
