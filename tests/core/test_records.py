import dataclasses
import json
import pickle

import pytest

from core.records import (
    Completion,
    FinishReason,
    RenderRequest,
    RolloutId,
    StopReason,
    ToolResult,
    TrainingSample,
    to_jsonable,
)
from tests.builders import make_group, make_image_ref, make_task, make_trajectory


def request(**changes: object) -> RenderRequest:
    a, b = make_image_ref("a"), make_image_ref("b")
    whole = RenderRequest(prompt="a flag", references=(a, b), seed=0, steps=4, model="nano")
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def test_a_render_key_depends_on_every_input() -> None:
    a, b = make_image_ref("a"), make_image_ref("b")
    variants = [
        request(),
        request(prompt="a flag."),
        request(references=(b, a)),
        request(references=(a,)),
        request(seed=1),
        request(steps=5),
        request(model="other"),
    ]

    assert len({variant.key for variant in variants}) == len(variants)
    assert request().key == request().key


def test_a_completion_has_one_logprob_per_token() -> None:
    whole = make_trajectory().turns[0].completion

    with pytest.raises(ValueError, match="2 tokens but 1 logprobs"):
        Completion(
            token_ids=(1, 2),
            logprobs=(-0.1,),
            finish_reason=FinishReason.STOP,
            sampling=whole.sampling,
            policy_versions=((0, 0, 2),),
        )


def test_a_training_sample_refuses_fields_of_different_length() -> None:
    sampling = make_trajectory().turns[0].completion.sampling

    with pytest.raises(ValueError, match="per-token fields differ in length"):
        TrainingSample(
            rollout_id=RolloutId(ordinal=0, index=0),
            token_ids=(1, 2),
            loss_mask=(0, 1),
            logprobs=(0.0, -0.5),
            advantages=(0.0,),
            policy_versions=(-1, 0),
            images=(),
            sampling=sampling,
        )


def test_rollout_ids_sort_by_task_then_member_then_attempt() -> None:
    ids = [
        RolloutId(ordinal=1, index=0),
        RolloutId(ordinal=0, index=1, attempt=1),
        RolloutId(ordinal=0, index=1),
    ]

    assert [str(one) for one in sorted(ids)] == ["0.1.0", "0.1.1", "1.0.0"]


def test_a_trajectory_counts_sampled_tokens_and_tool_failures() -> None:
    trajectory = make_trajectory()
    turn = dataclasses.replace(
        trajectory.turns[0], tool_result=ToolResult(text="search unavailable", error="HTTP 503")
    )
    trajectory = dataclasses.replace(trajectory, turns=(turn, turn))

    assert trajectory.tool_errors == ("HTTP 503", "HTTP 503")
    assert trajectory.num_sampled_tokens == 2 * len(turn.completion.token_ids)


def test_only_scored_unmasked_members_count() -> None:
    group = make_group(scores=[0.0, 0.5, 1.0])
    masked = dataclasses.replace(group.members[0], masked=True)
    group = dataclasses.replace(group, members=(masked, *group.members[1:]))

    assert len(group.scored) == 2


def test_records_pickle_and_become_plain_json() -> None:
    trajectory = make_trajectory()

    assert pickle.loads(pickle.dumps(trajectory)) == trajectory
    plain = json.loads(json.dumps(to_jsonable(trajectory)))
    assert plain["stop_reason"] == StopReason.ANSWER.value
    assert type(to_jsonable(StopReason.ANSWER)) is str
    assert plain["rollout_id"]["ordinal"] == trajectory.rollout_id.ordinal


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_task().prompt = "another"  # type: ignore[misc]
