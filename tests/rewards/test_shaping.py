"""Shaping parts: off by default, and worked out by hand when they are on."""

from typing import Any

import pytest

from core.config import build_config
from core.errors import ConfigError
from core.records import TaskMeta, ToolCall, ToolResult
from rewards.reward import DualReward, image_reward, text_reward
from rewards.shaping import Shaping
from tests.builders import make_score_part, make_task, make_trajectory, make_turn
from tests.fakes.judge import FakeJudge

CALL: dict[str, Any] = {
    "tool_call": ToolCall(name="search", arguments="{}"),
    "tool_result": ToolResult(text="x"),
}


def episode(*, calls: int, needs_search: bool, repaired: int = 0) -> Any:
    meta = TaskMeta(category="art", needs_search=needs_search)
    turns = [make_turn(**CALL, repairs=("x",) if n < repaired else ()) for n in range(calls)]
    return make_trajectory(task=make_task(meta=meta), turns=(*turns, make_turn()))


def test_nothing_is_shaped_by_default() -> None:
    assert Shaping().parts(episode(calls=3, needs_search=False)) == ()


@pytest.mark.parametrize(("calls", "value"), [(0, 1.0), (1, 0.5), (3, 0.25)])
def test_the_gate_pays_for_answering_directly(calls: int, value: float) -> None:
    shaping = Shaping(gate=0.2)
    (part,) = shaping.parts(episode(calls=calls, needs_search=False))
    assert (part.name, part.value, part.weight) == ("gate", value, 0.2)
    assert shaping.parts(episode(calls=calls, needs_search=True)) == ()


def test_format_and_budget_count_turns() -> None:
    shaping = Shaping(format=0.1, budget=0.1, max_turns=8)
    parts = shaping.parts(episode(calls=3, needs_search=True, repaired=1))
    assert {part.name: part.value for part in parts} == {"format": 0.75, "budget": 0.5}


def test_a_shaped_score_is_still_a_weighted_sum_with_both_rewards_inside() -> None:
    reward = DualReward(
        judge=FakeJudge(), text_weight=0.5, na_rule="paper", shaping=Shaping(gate=0.2)
    )
    score = reward.blend(
        text_parts=[make_score_part("text_reward", 0.5)],
        image_parts=[make_score_part("faithfulness", 1.0)],
        shaping_parts=reward.shaping_parts(episode(calls=1, needs_search=False)),
    )
    assert score.value == pytest.approx(0.8 * (0.5 * 1.0 + 0.5 * 0.5) + 0.2 * 0.5)
    assert sum(part.weight for part in score.parts) == pytest.approx(1.0)
    assert image_reward(score) == pytest.approx(1.0)
    assert text_reward(score) == 0.5


def test_weights_that_leave_nothing_for_the_judges_are_refused() -> None:
    with pytest.raises(ConfigError, match="leaves nothing for the judged reward"):
        build_config({"reward": {"gate_weight": 0.5, "budget_weight": 0.5}})
