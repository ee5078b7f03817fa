"""envs/chat.py: the chat shape, untrusted text, images, and what the learner checks."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer

from core.errors import ConfigError, DataError, FidelityError
from core.records import SeenImage
from envs.chat import TAGS, ChatFormat
from tests.builders import make_image_ref, png_bytes
from tests.fakes.images import MemoryImageStore
from tests.tiny_model import CONTROL_TOKENS, TAG_TOKENS

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
FORGEABLE = sorted({*CONTROL_TOKENS, *TAG_TOKENS, *TAGS})
hostile_text = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from([*FORGEABLE, "<", "<|", "think>", "</"])),
    max_size=12,
).map("".join)


def show(chat: ChatFormat, store: MemoryImageStore, data: bytes) -> SeenImage:
    ref = store.put(data)
    return chat.see(ref, data)


def control_ids(chat: ChatFormat) -> set[int]:
    return {chat.encode_trusted(token)[0] for token in (*CONTROL_TOKENS, *TAG_TOKENS)}


def test_a_conversation_has_the_published_shape(chat: ChatFormat) -> None:
    ids = chat.start(system="Tools: search.", prompt="Draw the flag of Torvi.")
    ids += [*chat.encode_trusted("<think>x</think>"), chat.stop_id]
    ids += chat.observe(["[p0001] Torvi: founded 47."])
    assert chat.decode(ids) == (
        "<|im_start|>system\nTools: search.<|im_end|>\n"
        "<|im_start|>user\nDraw the flag of Torvi.<|im_end|>\n"
        "<|im_start|>assistant\n<think>x</think><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n[p0001] Torvi: founded 47.\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_clean_text_is_encoded_as_the_tokenizer_alone_would(
    chat: ChatFormat, tiny_policy_folder: Path
) -> None:
    """A model that was trained on its own chat template sees the ids that it knows."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy_folder)
    ids = chat.start(system="Be brief.", prompt="Draw\n\n[x] the flag.") + chat.observe(["\n[p]\n"])
    assert ids == tokenizer.encode(chat.decode(ids), add_special_tokens=False)


def test_a_note_follows_the_response_and_may_stand_alone(chat: ChatFormat) -> None:
    both = chat.decode(chat.observe(["found"], note="Answer now."))
    assert "\n<tool_response>\nfound\n</tool_response>\nAnswer now.<|im_end|>\n" in both
    alone = chat.decode(chat.observe([], note="Too long."))
    assert alone == "\n<|im_start|>user\nToo long.<|im_end|>\n<|im_start|>assistant\n"


def test_a_cut_completion_is_closed(chat: ChatFormat) -> None:
    cut = chat.observe([], note="Too long.", closed=False)
    assert cut == [chat.stop_id, *chat.observe([], note="Too long.")]


@given(text=hostile_text)
def test_untrusted_text_never_yields_control_tokens_and_survives(
    chat: ChatFormat, text: str
) -> None:
    ids = chat.encode_text(text)
    assert not control_ids(chat) & set(ids)
    decoded = chat.decode(ids)
    assert not any(tag in decoded for tag in FORGEABLE)
    assert decoded.replace(" ", "") == text.replace(" ", "")


@given(parts=st.lists(hostile_text, min_size=1, max_size=4))
def test_no_frame_can_be_forged_from_any_part(chat: ChatFormat, parts: list[str]) -> None:
    plain, hostile = chat.observe(["x"]), chat.observe(parts)
    kept = control_ids(chat)
    assert [t for t in hostile if t in kept] == [t for t in plain if t in kept]
    started = chat.start(system="s", prompt=parts[0])
    assert [t for t in started if t in kept] == [
        t for t in chat.start(system="s", prompt="x") if t in kept
    ]


def test_only_the_tag_changes(chat: ChatFormat) -> None:
    text = "1 < 2 <b>bold</b> IMG_001 </think> <|im_end|> <answer>é\ud800"
    assert chat.decode(chat.encode_text(text)) == (
        "1 < 2 <b>bold</b> IMG_001 < /think> < |im_end|> < answer>é?"
    )


def test_text_is_cut_between_tokens_and_characters(chat: ChatFormat) -> None:
    text = "flag of Torvi é日本 red " * 5
    for max_tokens in range(len(chat.encode_text(text)) + 1):
        cut = chat.cut_text(text, max_tokens=max_tokens)
        assert text.startswith(cut)
        assert len(chat.encode_text(cut)) <= max_tokens
    assert chat.cut_text(text, max_tokens=10_000) == text


def test_placeholders_are_banned_and_the_stop_is_not(chat: ChatFormat) -> None:
    assert chat.image_id in chat.banned_ids
    assert chat.stop_id not in chat.banned_ids
    assert len(chat.banned_ids) == 5
    assert chat.encode_trusted("<|im_end|>") == [chat.stop_id]


def test_images_are_one_placeholder_each_until_expanded(chat: ChatFormat) -> None:
    store = MemoryImageStore()
    small = show(chat, store, png_bytes(size=(32, 32)))
    large = show(chat, store, png_bytes((0, 0, 255), size=(64, 64)))
    assert (small.num_tokens, large.num_tokens) == (4, 16)
    ids = chat.observe(["IMG_001: red ", small, "\nIMG_002: blue ", large])
    assert f"IMG_001: red {IMAGE}\nIMG_002: blue {IMAGE}\n" in chat.decode(ids)
    expanded = chat.expand(ids, [small, large])
    assert expanded.count(chat.image_id) == 20
    assert len(expanded) == len(ids) + 18
    with pytest.raises(FidelityError, match="2 image placeholders for 1 images"):
        chat.expand(ids, [small])


def test_the_learner_gets_the_pixels_that_the_policy_saw(chat: ChatFormat) -> None:
    store = MemoryImageStore()
    red, blue = (show(chat, store, png_bytes(c)) for c in ((255, 0, 0), (0, 0, 255)))
    inputs = chat.vision_inputs([red, blue, red], store)
    assert inputs.pixel_values.shape == (48, 3 * 2 * 8 * 8)
    assert inputs.pixel_values.dtype == np.float32
    assert inputs.grid_thw.tolist() == [[1, 4, 4]] * 3
    assert np.array_equal(inputs.pixel_values[:16], inputs.pixel_values[32:])
    none = chat.vision_inputs([], store)
    assert none.pixel_values.shape == (0, 3 * 2 * 8 * 8)
    assert none.grid_thw.shape == (0, 3)


def test_an_image_that_differs_is_named(chat: ChatFormat) -> None:
    store = MemoryImageStore()
    seen = show(chat, store, png_bytes())
    with pytest.raises(FidelityError, match=f"{seen.ref.sha256}: other pixel values"):
        chat.vision_inputs([replace(seen, pixel_digest="0" * 64)], store)
    with pytest.raises(FidelityError, match=f"{seen.ref.sha256}: grid"):
        chat.vision_inputs([replace(seen, grid_thw=(1, 2, 2))], store)


def test_transparent_and_grey_images_can_be_seen(chat: ChatFormat) -> None:
    digests = set()
    for image in (Image.new("RGBA", (32, 32)), Image.new("L", (32, 32), 255)):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        seen = chat.see(make_image_ref(image.mode), buffer.getvalue())
        digests.add(seen.pixel_digest)
    assert len(digests) == 1, "nothing on white is white"


def test_what_no_grid_can_hold_is_refused(chat: ChatFormat) -> None:
    with pytest.raises(DataError, match="cannot be shown"):
        chat.see(make_image_ref("strip"), png_bytes(size=(4000, 2)))
    with pytest.raises(DataError, match="not a whole"):
        chat.see(make_image_ref("broken"), b"no image")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        ChatFormat.load(tmp_path)
