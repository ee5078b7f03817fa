"""The model judge over real loopback HTTP: every fault of the fake server, both protocols, and
the official client of OpenAI beside ours."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.judges import open_panel
from core.config import build_config
from core.errors import JudgeError
from core.protocols import ImageVerdict
from core.records import Failure, Group, Score, Stage
from envs.http import AiohttpClient
from envs.images import FileImageStore
from rewards.model_judge import ModelJudge
from rewards.rubrics import Rubrics
from tests.builders import make_member, make_task, png_bytes
from tests.fakes.judge_server import Fault, FaultScript, JudgeServer, first_tries_fail, no_faults


@asynccontextmanager
async def judging(
    folder: Path, *, kind: str = "openai", faults: FaultScript = no_faults, **changes: Any
) -> AsyncIterator[tuple[ModelJudge, JudgeServer]]:
    """A judge as a run opens it, asking a server of this test."""
    async with JudgeServer(faults=faults, slow_s=3.0, api_key="k") as server:
        url = server.gemini_url if kind == "gemini" else server.base_url
        config = build_config(
            {
                "judge": {"kind": kind, "model": "m", "base_url": url, "timeout_s": 30.0}
                | {"per_second": 1000.0, "max_tries": 3, "prompt_usd": 1.0}
                | changes
            }
        )
        http = AiohttpClient(may_connect=lambda address: True)
        panel = open_panel(config, folder, api_key="k", http=http)
        try:
            yield ModelJudge(panel, Rubrics()), server
        finally:
            await http.close()


async def ask(judge: ModelJudge, folder: Path, *, shade: int = 0) -> ImageVerdict:
    store = FileImageStore(folder / "images")
    task = make_task(ground_truth=store.put(png_bytes()))
    return await judge.judge_image(task=task, image=store.put(png_bytes((0, 0, shade))))


@pytest.mark.parametrize("kind", ["openai", "gemini"])
async def test_a_verdict_over_the_wire_is_what_the_server_made(kind: str, tmp_path: Path) -> None:
    async with judging(tmp_path, kind=kind) as (judge, server):
        verdict = await ask(judge, tmp_path)
        kept = await ask(judge, tmp_path)

        (seen,) = server.seen
        assert seen.images == (png_bytes((0, 0, 0)), png_bytes())
        assert set(seen.media_types) == {"image/png"}
        assert (verdict.rationale, kept.took.cached) == (f"made of {seen.content[:8]}", True)
        assert verdict.took.tokens == 120
        assert verdict.took.cost_usd == pytest.approx(100 / 1e6)
        assert judge.name == f"{kind}:m"


@pytest.mark.parametrize("kind", ["openai", "gemini"])
@pytest.mark.parametrize(
    ("fault", "billed"),
    [
        (Fault.STORM, 1),
        (Fault.ERROR, 1),
        (Fault.TRUNCATED, 2),
        (Fault.WRONG_JSON, 2),
        (Fault.OFF_SCALE, 2),
    ],
)
async def test_a_passing_fault_is_asked_about_again(
    fault: Fault, billed: int, kind: str, tmp_path: Path
) -> None:
    faults = first_tries_fail(fault, share=1.0)
    async with judging(tmp_path, kind=kind, faults=faults) as (judge, server):
        await ask(judge, tmp_path)
        assert (server.num_calls, server.faults_made[fault], server.num_paid_twice) == (2, 1, 0)
        assert await judge.spent_usd() == pytest.approx(billed * 100 / 1e6)


async def test_a_fence_and_prose_cost_no_second_call(tmp_path: Path) -> None:
    async with judging(tmp_path, faults=first_tries_fail(Fault.FENCED, share=1.0)) as (judge, s):
        await ask(judge, tmp_path)
        assert s.num_calls == 1


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("openai", Fault.REFUSES_SCHEMA),
        ("openai", Fault.REFUSES_MAX_TOKENS),
        ("gemini", Fault.REFUSES_SCHEMA),
    ],
)
async def test_what_the_endpoint_does_not_take_is_left_out(
    kind: str, fault: Fault, tmp_path: Path
) -> None:
    async with judging(tmp_path, kind=kind, faults=lambda *_: fault) as (judge, server):
        await asyncio.gather(*(ask(judge, tmp_path, shade=shade) for shade in range(4)))
        calls = server.num_calls
        await ask(judge, tmp_path, shade=9)
        assert calls <= 8
        assert server.num_calls == calls + 1


@pytest.mark.parametrize(
    ("fault", "error_type", "tries"),
    [
        (Fault.STORM, "HTTP 429", 3),
        (Fault.ERROR, "HTTP 503", 3),
        (Fault.TRUNCATED, "BadReply", 3),
        (Fault.WRONG_JSON, "BadReply", 3),
        (Fault.OFF_SCALE, "BadReply", 3),
        (Fault.BLOCKED, "Blocked", 1),
        (Fault.SLOW, "TimeoutError", 3),
    ],
)
async def test_a_lasting_fault_is_a_failure_and_the_group_is_normalised_without_it(
    fault: Fault, error_type: str, tries: int, tmp_path: Path
) -> None:
    timeout_s = 0.5 if fault is Fault.SLOW else 30.0
    async with judging(tmp_path, faults=lambda *_: fault, timeout_s=timeout_s) as (judge, server):
        with pytest.raises(JudgeError) as caught:
            await ask(judge, tmp_path)
        assert server.num_calls == tries
    failure = caught.value.as_failure()
    assert (failure.stage, failure.error_type) == (Stage.JUDGE, error_type)
    members = (make_member(0.0), make_member(failure, index=1), make_member(1.0, index=2))
    group = Group(task=make_task(), members=members)
    scores = [m.outcome.value for m in group.scored if isinstance(m.outcome, Score)]
    assert scores == [0.0, 1.0]
    assert isinstance(group.members[1].outcome, Failure)


async def test_the_places_and_the_rate_are_the_configs(tmp_path: Path) -> None:
    async with judging(tmp_path, max_in_flight=3) as (judge, server):
        await asyncio.gather(*(ask(judge, tmp_path, shade=shade) for shade in range(12)))
        assert server.most_in_flight <= 3
        assert (len(server.paid), server.num_paid_twice) == (12, 0)


async def test_the_official_client_and_ours_get_the_same_verdict(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    async with judging(tmp_path) as (judge, server):
        ours = await ask(judge, tmp_path)
        body = dict(server.seen[0].body)
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="k") as client:
            reply = await client.chat.completions.create(**body)
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="wrong").chat.completions.create(**body)
        theirs = json.loads(reply.choices[0].message.content)

        assert ours.visual_correctness == theirs["visual_correctness"]
        assert ours.text_accuracy == theirs["text_accuracy"]
        assert reply.usage.total_tokens == ours.took.tokens == 120
        assert list(server.asked.values()) == [2], "the two asked for the same"
        url = body["messages"][1]["content"][2]["image_url"]["url"]
        assert base64.b64decode(url.split(",")[1]) == png_bytes((0, 0, 0))
