"""envs/prompts.py: what the policy is told."""

import json

from core.protocols import ToolSpec
from envs.parsing import AnswerBlock, ToolCallBlock, parse_completion
from envs.prompts import format_error, system_prompt

TOOLS = [
    ToolSpec(
        name=name,
        description=f"Does {name}.",
        parameters={"type": "object", "properties": {"query": {"type": "string"}}},
    )
    for name in ("search", "image_search", "browse")
]


def test_the_nano_prompt_is_what_the_nano_policy_was_trained_on() -> None:
    assert system_prompt("nano", TOOLS) == "Tools: search, image_search, browse."


def test_the_full_prompt_holds_every_tool_as_json_schema() -> None:
    prompt = system_prompt("full", TOOLS)
    lines = [json.loads(line) for line in prompt.splitlines() if line.startswith('{"type"')]
    assert [line["function"]["name"] for line in lines] == ["search", "image_search", "browse"]
    assert lines[0]["function"]["parameters"] == TOOLS[0].parameters


def test_the_full_prompt_shows_forms_that_parse() -> None:
    prompt = system_prompt("full", TOOLS)
    start = prompt.index("<answer>")
    answer = prompt[start : prompt.index("</answer>", start) + len("</answer>")]
    assert isinstance(parse_completion(f"<think>x</think>{answer}"), AnswerBlock)
    start = prompt.index("<tool_call>")
    call = prompt[start : prompt.index("</tool_call>", start)].replace("{...}", "{}")
    assert isinstance(parse_completion(f"<think>x</think>{call}</tool_call>"), ToolCallBlock)
    assert "5 reference images" in prompt


def test_a_format_error_is_one_sentence() -> None:
    assert format_error("<think> is never closed") == "Error: <think> is never closed."
