"""envs/parsing.py and envs/answers.py: what a completion means, and what it never means."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.records import Answer, AnswerError
from envs.answers import resolve_answer
from envs.parsing import AnswerBlock, FormatError, ToolCallBlock, parse_completion
from tests.builders import make_image_ref

CALL = '<tool_call>{"name": "search", "arguments": {"queries": ["Torvi"]}}</tool_call>'
ANSWER = '<answer>{"gen_prompt": "red flag", "reference_images": []}</answer>'
SHOWN = {f"IMG_{n:03d}": make_image_ref(str(n)) for n in range(1, 9)}

pieces = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>"),
        *("{", "}", "[", "]", ",", ":", '"', "\\", "```", "\n", " ", "NaN", "1e999", "\\ud800"),
        *('"name"', '"arguments"', '"search"', '{"queries": ["x"]}', '"gen_prompt"', "[" * 3000),
        *('"reference_images"', CALL, ANSWER, '{"img_id": "IMG_001", "note": "n"}'),
    ]
)
any_text = st.lists(st.one_of(pieces, st.text(max_size=6)), max_size=14).map("".join)
any_json: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6), st.just("IMG_001")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=7),
        st.dictionaries(
            st.sampled_from(["gen_prompt", "reference_images", "img_id", "note"]), inner
        ),
    ),
)


def test_a_call_after_a_thought() -> None:
    block = parse_completion(f"<think>find Torvi</think>{CALL}")
    assert isinstance(block, ToolCallBlock)
    assert (block.call.name, block.call.arguments) == ("search", '{"queries": ["Torvi"]}')
    assert block.repairs == ()


def test_an_answer_after_a_thought() -> None:
    block = parse_completion(f"<think>a</think>\n\n{ANSWER}\n")
    assert isinstance(block, AnswerBlock)
    assert block.value == {"gen_prompt": "red flag", "reference_images": []}
    assert block.repairs == ()


@pytest.mark.parametrize("inside", [CALL, ANSWER, "<answer>", "</tool_call>", "<think>"])
def test_a_tag_inside_the_thought_is_only_text(inside: str) -> None:
    block = parse_completion(f"<think>shall I write {inside}?</think>{ANSWER}")
    assert isinstance(block, AnswerBlock)
    assert block.repairs == ()
    assert isinstance(parse_completion(f"<think>only {inside}"), FormatError)


@pytest.mark.parametrize(
    ("text", "kind", "repairs"),
    [
        (CALL, ToolCallBlock, ("no_think",)),
        (f"thought</think>{CALL}", ToolCallBlock, ("think_not_opened",)),
        (f"<think>a</think><think>b</think>{CALL}", ToolCallBlock, ("extra_think",)),
        (f"<think>a</think>{CALL}{ANSWER}", ToolCallBlock, ("extra_block",)),
        (f"<think>a</think>{ANSWER}{CALL}", AnswerBlock, ("extra_block",)),
        (f"<think>a</think>so: {ANSWER}", AnswerBlock, ("stray_text",)),
        (f"<think>a</think>{ANSWER} done", AnswerBlock, ("stray_text",)),
        (f"<think>a</think>{CALL[:-12]}", ToolCallBlock, ("unclosed_block",)),
    ],
)
def test_slips_of_form_are_forgiven_and_named(
    text: str, kind: type, repairs: tuple[str, ...]
) -> None:
    block = parse_completion(text)
    assert isinstance(block, kind)
    assert block.repairs == repairs


@pytest.mark.parametrize(
    ("content", "repairs"),
    [
        ('```json\n{"gen_prompt": "x", "reference_images": []}\n```', ("code_fence",)),
        ('{"gen_prompt": "x", "reference_images": [],}', ("trailing_comma",)),
        ('{"gen_prompt": "x,]", "reference_images": [ , ]}', ("trailing_comma",)),
        ('{"gen_prompt": "x\ny", "reference_images": []}', ("raw_newline",)),
    ],
)
def test_json_is_mended_where_its_meaning_is_certain(
    content: str, repairs: tuple[str, ...]
) -> None:
    block = parse_completion(f"<think>a</think><answer>{content}</answer>")
    assert isinstance(block, AnswerBlock)
    assert block.repairs == repairs
    assert block.value is not None
    assert str(block.value["gen_prompt"]).startswith("x")
    assert block.value["reference_images"] == []


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}}", "{'gen_prompt': 'x'}", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}'),
        *('{"a": "\\ud800"}', '{"gen_prompt": "x", "reference_images": []', "[]", '"x"'),
    ],
)
def test_json_of_doubtful_meaning_is_not_mended(content: str) -> None:
    block = parse_completion(f"<think>a</think><answer>{content}</answer>")
    assert isinstance(block, AnswerBlock)
    assert block.value is None
    call = parse_completion(f"<think>a</think><tool_call>{content}</tool_call>")
    assert isinstance(call, FormatError)


def test_a_closing_tag_inside_a_json_string_does_not_close() -> None:
    text = '<answer>{"gen_prompt": "a sign </answer> here", "reference_images": []}</answer>'
    block = parse_completion(f"<think>a</think>{text}")
    assert isinstance(block, AnswerBlock)
    assert block.value is not None
    assert block.value["gen_prompt"] == "a sign </answer> here"
    assert block.repairs == ()


def test_arguments_inside_a_json_string_are_read() -> None:
    call = json.dumps({"name": "search", "arguments": '{"queries": ["x"]}'})
    block = parse_completion(f"<think>a</think><tool_call>{call}</tool_call>")
    assert isinstance(block, ToolCallBlock)
    assert block.call.arguments == '{"queries": ["x"]}'
    assert block.repairs == ("arguments_as_text",)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"arguments": {}}, "no name"),
        ({"name": 3, "arguments": {}}, "no name"),
        ({"name": "search"}, "no arguments"),
        ({"name": "search", "queries": ["x"]}, "no arguments"),
        ({"name": "search", "arguments": ["x"]}, "no arguments"),
    ],
)
def test_an_incomplete_call_is_explained(call: object, reason: str) -> None:
    error = parse_completion(f"<think>a</think><tool_call>{json.dumps(call)}</tool_call>")
    assert isinstance(error, FormatError)
    assert reason in error.reason


@given(text=any_text)
def test_parsing_never_raises_and_never_invents(text: str) -> None:
    block = parse_completion(text)
    if isinstance(block, ToolCallBlock):
        assert "<tool_call>" in text
        assert isinstance(json.loads(block.call.arguments), dict)
    elif isinstance(block, AnswerBlock):
        assert "<answer>" in text
    else:
        assert block.reason


@given(thought=st.text(), name=st.text(min_size=1), arguments=st.dictionaries(st.text(), any_json))
def test_every_well_formed_call_is_read_back(
    thought: str, name: str, arguments: dict[str, object]
) -> None:
    thought = thought.replace("</think>", "")
    call = json.dumps({"name": name, "arguments": arguments})
    block = parse_completion(f"<think>{thought}</think><tool_call>{call}</tool_call>")
    assert isinstance(block, ToolCallBlock)
    assert block.call.name == name
    assert json.loads(block.call.arguments) == arguments
    assert block.repairs == ()


def answer(prompt: str, *img_ids: str) -> dict[str, object]:
    references = [{"img_id": img_id, "note": f"note {img_id}"} for img_id in img_ids]
    return {"gen_prompt": prompt, "reference_images": references}


def test_chosen_images_keep_the_order_of_the_answer() -> None:
    resolved, repairs = resolve_answer(answer("x", "IMG_003", "IMG_001"), shown=SHOWN)
    assert isinstance(resolved, Answer)
    assert resolved.chosen == (SHOWN["IMG_003"], SHOWN["IMG_001"])
    assert resolved.notes == ("note IMG_003", "note IMG_001")
    assert repairs == ("reference_order",)
    assert resolve_answer(answer("x"), shown={})[1] == ()


def test_duplicates_go_and_ordinals_follow() -> None:
    prompt = "The first and third reference images, as in the second reference image; third time."
    resolved, repairs = resolve_answer(answer(prompt, *["IMG_001"] * 2, "IMG_002"), shown=SHOWN)
    assert isinstance(resolved, Answer)
    assert resolved.chosen == (SHOWN["IMG_001"], SHOWN["IMG_002"])
    assert resolved.gen_prompt == (
        "The first and second reference images, as in the first reference image; third time."
    )
    assert repairs == ("duplicate_reference",)


def test_ids_in_the_prompt_become_ordinals() -> None:
    resolved, repairs = resolve_answer(
        answer("IMG_004 beside IMG_002, not IMG_001", "IMG_002", "IMG_004"), shown=SHOWN
    )
    assert isinstance(resolved, Answer)
    assert resolved.gen_prompt == (
        "the second reference image beside the first reference image, not IMG_001"
    )
    assert repairs == ("id_in_prompt",)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "not a valid JSON object"),
        ({"reference_images": []}, "gen_prompt"),
        ({"gen_prompt": "  ", "reference_images": []}, "gen_prompt"),
        ({"gen_prompt": "x"}, "reference_images must be a list"),
        ({"gen_prompt": "x", "reference_images": ["IMG_001"]}, "every reference image"),
        (answer("x", "IMG_099"), "no image 'IMG_099' was shown"),
        (answer("x", *SHOWN), "8 reference images, at most 5"),
    ],
)
def test_a_bad_answer_says_why(value: dict[str, object] | None, reason: str) -> None:
    error, _ = resolve_answer(value, shown=SHOWN)
    assert isinstance(error, AnswerError)
    assert reason in error.reason


def test_five_references_after_duplicates_are_allowed() -> None:
    ids = [*list(SHOWN)[:5], "IMG_001"]
    assert isinstance(resolve_answer(answer("x", *ids), shown=SHOWN)[0], Answer)


@given(value=st.one_of(st.none(), st.dictionaries(st.text(), any_json), any_json))
def test_answers_never_raise_and_never_invent(value: object) -> None:
    if not isinstance(value, dict):
        value = {"gen_prompt": "x", "reference_images": value}
    resolved, _ = resolve_answer(value, shown=SHOWN)
    if isinstance(resolved, Answer):
        assert resolved.gen_prompt.strip()
        assert set(resolved.chosen) <= set(SHOWN.values())
        assert len(resolved.notes) == len(resolved.chosen) == len(set(resolved.chosen)) <= 5


def test_more_references_than_the_image_model_takes_are_refused_not_cut() -> None:
    resolved, _ = resolve_answer(answer("x", "IMG_001", "IMG_002"), shown=SHOWN, max_references=1)
    assert resolved == AnswerError(reason="2 reference images, at most 1 are allowed")
