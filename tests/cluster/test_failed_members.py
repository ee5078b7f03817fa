"""Every fault of ours that can cost a verdict ends as a Failure, and the group does without it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError

from actors.judge import JudgeClient
from cluster.members import MemberRunner
from cluster.track.timeline import Timeline
from core.errors import ToolError
from core.places import Places
from core.protocols import HttpResponse, ImageModel, Judge
from core.records import Failure, Group, Score, Stage, Task
from learners.advantage import group_advantages
from tests.builders import (
    make_answer,
    make_member,
    make_rollout_id,
    make_score,
    make_task,
    make_trajectory,
    png_bytes,
)
from tests.builders_cluster import make_grader
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge
from tests.fakes.pool import FakePool
from tests.rewards.judge_builders import GOOD, LIMITS, completion, judged_task, make_judge


class DeadActor:
    """A handle whose every call ends as those of a killed actor do."""

    def __getattr__(self, name: str) -> Any:
        return self

    async def remote(self, *args: Any) -> Any:
        raise RayActorError


def model_judge(answer: Callable[..., HttpResponse], store: MemoryImageStore) -> Judge:
    judge, _ = make_judge(answer, store=store)
    return judge


def http_error(*_: Any) -> HttpResponse:
    return HttpResponse(status=500, headers={}, body=b"down")


def too_late(*_: Any) -> HttpResponse:
    raise ToolError("judge.test did not answer in 5 s")


def off_scale(*_: Any) -> HttpResponse:
    return completion('{"rationale": "r", "score": 5}')


def truncated(*_: Any) -> HttpResponse:
    return completion('{"rationale": "r", "score": 1}', finish_reason="length")


def good_reply(*_: Any) -> HttpResponse:
    return completion(json.dumps({**json.loads(GOOD), "score": 1}))


def faulty_parts(fault: str, store: MemoryImageStore, task: Task) -> tuple[Judge, ImageModel]:
    judges: dict[str, Callable[[], Judge]] = {
        "http": lambda: model_judge(http_error, store),
        "timeout": lambda: model_judge(too_late, store),
        "off scale": lambda: model_judge(off_scale, store),
        "truncated": lambda: model_judge(truncated, store),
        "dead actor": lambda: JudgeClient(
            DeadActor(), name="judge", prompt_sha="", deadline_s=-1.0
        ),
        "missing truth": lambda: model_judge(good_reply, MemoryImageStore()),
        "render": FakeJudge,
        "missing reference": FakeJudge,
        "no fault": lambda: model_judge(good_reply, store),
    }
    prompt = make_answer().gen_prompt
    failures = {prompt: 99} if fault == "render" else None
    pictures = MemoryImageStore() if fault == "missing reference" else store
    return judges[fault](), FakeImageModel(pictures, fail_times=failures)


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        ("http", Stage.JUDGE),
        ("timeout", Stage.JUDGE),
        ("off scale", Stage.JUDGE),
        ("truncated", Stage.JUDGE),
        ("dead actor", Stage.JUDGE),
        ("missing truth", Stage.INFRA),
        ("render", Stage.RENDER),
        ("missing reference", Stage.INFRA),
    ],
)
async def test_a_fault_is_a_failure_and_the_group_is_normalised_without_it(
    fault: str, stage: Stage
) -> None:
    store = MemoryImageStore()
    task = judged_task(store)
    judge, image_model = faulty_parts(fault, store, task)
    grader = make_grader(judge, image_model)
    rollout_id = make_rollout_id(index=1)
    answer = make_answer(chosen=[store.put(png_bytes())])
    episode = make_trajectory(task=task, rollout_id=rollout_id, answer=answer)
    member = await grader.grade(episode, mode="train")
    assert isinstance(member.outcome, Failure)
    assert member.outcome.stage is stage
    scored = [make_member(0.0, index=0), make_member(make_score(1.0), index=2)]
    with_it = Group(task=make_task(), members=(scored[0], member, scored[1]))
    without = Group(task=make_task(), members=tuple(scored))

    advantages = group_advantages(with_it, use_std=True)
    assert advantages == group_advantages(without, use_std=True)
    assert rollout_id not in advantages
    assert {type(m.outcome) for m in with_it.scored} == {Score}


async def test_the_same_parts_without_a_fault_give_a_score() -> None:
    store = MemoryImageStore()
    task = judged_task(store)
    grader = make_grader(*faulty_parts("no fault", store, task))
    answer = make_answer(chosen=[store.put(png_bytes())])
    member = await grader.grade(make_trajectory(task=task, answer=answer), mode="train")
    assert isinstance(member.outcome, Score)


async def test_no_layer_above_the_endpoint_asks_again() -> None:
    store = MemoryImageStore()
    task = judged_task(store)
    judge, http = make_judge(http_error, store=store)
    pool = FakePool()
    runner = MemberRunner(
        pool=pool,
        grader=make_grader(judge, FakeImageModel(store, fail_times={make_answer().gen_prompt: 99})),
        timeline=Timeline(lambda span: None),
        on_attempt=lambda member, mode, version: None,
        policy_version=lambda: 0,
        max_reissues=5,
        places=Places(1),
    )
    member = await runner.run(task, index=0, mode="train")

    assert isinstance(member.outcome, Failure)
    assert member.outcome.retryable
    assert len(pool.events) == 2, "the episode was whole, so it is not played again"
    assert len(http.events) <= LIMITS.max_tries
