"""Nothing that strangers write becomes a control token, a role marker or a tag, proved on ids.

The oracle here shares no code with envs/untrusted.py: it decodes the ids, undoes every way of
hiding that it knows on the whole text at once, and looks for the tags themselves.
"""

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from core.errors import ConfigError
from envs.chat import ChatFormat
from envs.untrusted import OPENINGS, TagBreaker
from tests.security import tokenizers
from tests.security.hostile_texts import INJECTIONS, LEGITIMATE, SPLIT_OVER_PARTS
from tests.security.tokenizers import TAGS, control_ids, forbidden_tags

CHATS = {"nano": tokenizers.nano(), "stand-in": tokenizers.stand_in()}
CONTROL = {name: control_ids(chat) for name, chat in CHATS.items()}
FORBIDDEN = {name: forbidden_tags(chat) for name, chat in CHATS.items()}
FRAMES = {
    name: [token for token in chat.observe(["x"]) if token in CONTROL[name]]
    for name, chat in CHATS.items()
}
IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e0fff]"
)

PIECES = (
    *TAGS,
    *("<", ">", "|", "/", "</", "<|", "|>", "_", "im", "end", "th", "ink", "think>", "answer>"),
    *("\uff1c", "\uff1e", "\uff5c", "\uff0f", "\ufe64", "\ufe65", "\uff54", "\u212a", "\u017f"),
    *("\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u034f", "\ufe0f", "\x00", "\x08"),
    *("\u0338", "\u0301", "\u20d2", "\ud800", "\udc00", "\u33cc", "\u217f", "\U000e0041"),
    *(" ", "\n", "\t", "a", "I", "N", "K", "\u00e9", "\u65e5"),
)
hostile = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
anything = st.text(max_size=24)


def _with_something_inside(drawn: tuple[str, int, str, bool]) -> str:
    tag, place, piece, is_upper = drawn
    text = tag[:place] + piece + tag[place:]
    return text.upper() if is_upper else text


broken_tag = st.tuples(
    st.sampled_from(TAGS), st.integers(0, 20), st.sampled_from(PIECES), st.booleans()
).map(_with_something_inside)
texts = st.one_of(hostile, broken_tag, anything)

thoroughly = settings(
    max_examples=9000,
    deadline=None,
    database=None,
    derandomize=False,
    suppress_health_check=list(HealthCheck),
)
slowly = settings(thoroughly, max_examples=1500)
"""For lists of texts, which are ten times as slow to make; with both tokenizers, 21,000 in all."""


def laid_bare(text: str) -> str:
    """What any reader could make of it: normalised, without what cannot be seen, in lower case."""
    folded = unicodedata.normalize("NFKC", text)
    seen = (
        char
        for char in folded
        if char in "\t\n\r" or unicodedata.category(char) not in ("Cf", "Cc")
    )
    return unicodedata.normalize("NFKC", IGNORABLE.sub("", "".join(seen)).casefold())


def assert_harmless(name: str, text: str) -> None:
    chat = CHATS[name]
    ids = chat.encode_text(text)
    assert not CONTROL[name] & set(ids)
    shown = laid_bare(chat.decode(ids))
    assert not [tag for tag in FORBIDDEN[name] if tag in shown]


def test_the_stand_in_has_the_published_table() -> None:
    chat = CHATS["stand-in"]
    assert len(CONTROL["stand-in"]) == 26
    assert chat.encode_trusted("<|im_start|>") == [151644]
    assert chat.encode_trusted("<|image_pad|>") == [151655]
    assert chat.encode_trusted("<tool_call>") == [151657]
    assert chat.encode_trusted("</think>") == [151668]
    assert len(chat.encode_trusted("<answer>")) > 1, "not a token of the published tokenizer"


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("text", INJECTIONS, ids=lambda text: ascii(text)[:50])
def test_an_injection_stays_text_and_readable(name: str, text: str) -> None:
    assert_harmless(name, text)
    decoded = CHATS[name].decode(CHATS[name].encode_text(text))
    sent = text.encode("utf-8", "replace").decode()
    assert decoded.replace(" ", "") == normal(name)(sent).replace(" ", "")


def normal(name: str) -> Callable[[str], str]:
    """The stand-in normalises to NFC, as the published tokenizer does."""
    return str if name == "nano" else lambda text: unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("parts", SPLIT_OVER_PARTS)
def test_no_tag_hides_between_two_parts(name: str, parts: tuple[str, ...]) -> None:
    chat = CHATS[name]
    ids = chat.observe(parts)
    assert [token for token in ids if token in CONTROL[name]] == FRAMES[name]
    inside = chat.decode(ids).partition("<tool_response>")[2].rpartition("</tool_response>")[0]
    assert not [tag for tag in FORBIDDEN[name] if tag in laid_bare(inside)]


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("text", LEGITIMATE)
def test_ordinary_text_is_not_touched(name: str, text: str) -> None:
    chat = CHATS[name]
    assert chat.encode_text(text) == chat.encode_trusted(text)
    assert chat.decode(chat.encode_text(text)) == normal(name)(text)


@pytest.mark.parametrize("name", CHATS)
@thoroughly
@given(text=texts)
def test_no_text_yields_a_control_token_or_a_tag(name: str, text: str) -> None:
    assert_harmless(name, text)


@pytest.mark.parametrize("name", CHATS)
@slowly
@given(parts=st.lists(texts, min_size=1, max_size=4), prompt=hostile)
def test_no_parts_and_no_prompt_change_the_frame(name: str, parts: list[str], prompt: str) -> None:
    chat = CHATS[name]
    assert [t for t in chat.observe(parts) if t in CONTROL[name]] == FRAMES[name]
    started = chat.start(system="s", prompt=prompt)
    plain = chat.start(system="s", prompt="x")
    assert [t for t in started if t in CONTROL[name]] == [t for t in plain if t in CONTROL[name]]


@given(text=texts)
@settings(max_examples=1000, deadline=None, database=None)
def test_what_is_harmless_once_stays_as_it_is(text: str) -> None:
    """A cut text is made harmless a second time; that must not change it again."""
    breaker = TagBreaker(TAGS)
    once = breaker.break_tags(text)
    assert breaker.break_tags(once) == once


def test_the_list_of_opening_brackets_is_complete() -> None:
    """By the Unicode tables of this Python: every character that folds to "<" and nothing else."""
    folded = {chr(n) for n in range(0x110000) if unicodedata.normalize("NFKC", chr(n))[0] == "<"}
    assert folded == set(OPENINGS)
    inside = [chr(n) for n in range(0x110000) if "<" in unicodedata.normalize("NFKC", chr(n))[1:]]
    assert inside == []


def test_many_openings_and_invisible_characters_take_no_longer_than_others() -> None:
    """100,000 characters of the worst kinds; a quadratic scan would take minutes."""
    breaker = TagBreaker(TAGS)
    for text in ("<" * 100_000, "<" + "\u200b" * 100_000, "<\u200b" * 50_000, "<|im_" * 20_000):
        assert breaker.break_tags(text) == text


def test_a_tokenizer_with_control_tokens_of_another_family_is_refused() -> None:
    bpe = Tokenizer(models.BPE())
    bpe.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|image_pad|>", "[PAD]"])
    with pytest.raises(ConfigError, match=r"another family: \['\[PAD\]'\]"):
        ChatFormat(PreTrainedTokenizerFast(tokenizer_object=bpe), image_processor=None)
