"""envs/transcript.py: what fits is shown, what does not is left out whole."""

import pytest

from core.records import FoundImage, ToolResult
from envs.chat import ChatFormat
from envs.transcript import Transcript
from tests.builders import png_bytes
from tests.fakes.images import MemoryImageStore

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def new(chat: ChatFormat) -> Transcript:
    transcript = Transcript(chat, system="s", prompt="p")
    transcript.add_completion([*chat.encode_trusted("<think>x</think>"), chat.stop_id])
    return transcript


def found() -> list[tuple[FoundImage, bytes]]:
    store, images = MemoryImageStore(), []
    for color in COLORS:
        data = png_bytes(color)
        images.append((FoundImage(ref=store.put(data), title="flag é日", page_url=""), data))
    return images


@pytest.mark.parametrize("text", ["", "Torvi: founded 47. \n\n é日本 red"])
def test_a_response_takes_no_more_room_than_given(chat: ChatFormat, text: str) -> None:
    whole = new(chat)
    before = whole.num_tokens
    images = found()
    assert whole.add_response(ToolResult(text=text), images, note="n", max_tokens=500) == ()
    num_shown = []
    for max_tokens in range(whole.num_tokens - before + 1):
        transcript = new(chat)
        left_out = transcript.add_response(
            ToolResult(text=text), images, note="n", max_tokens=max_tokens
        )
        if left_out is None:
            assert transcript.num_tokens == before
            assert not num_shown, "more room never means less"
            continue
        num_shown.append(len(transcript.images))
        added = transcript.num_tokens - before
        assert added <= max_tokens
        assert ("image_left_out" in left_out) == (num_shown[-1] < 3)
        assert len(chat.expand(transcript.engine_ids, transcript.images)) == transcript.num_tokens
        assert len(transcript.shown) == num_shown[-1]
    assert num_shown == sorted(num_shown)
    assert set(num_shown) == {0, 1, 2, 3}


def test_a_note_that_does_not_fit_changes_nothing(chat: ChatFormat) -> None:
    transcript = new(chat)
    before = transcript.engine_ids
    assert not transcript.add_note("Too long.", max_tokens=3)
    assert transcript.engine_ids == before
    assert transcript.add_note("Too long.", max_tokens=100)
    assert transcript.engine_ids[: len(before)] == before
