"""The fake judge server itself: equal requests, equal verdicts; faults as scripted; counts."""

import json

from envs.http import AiohttpClient
from tests.fakes.judge_server import Fault, JudgeServer, first_tries_fail, in_thread, verdict_of


def _body(text: str) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


async def test_equal_requests_get_equal_verdicts_and_are_counted() -> None:
    async with JudgeServer() as server:
        client = AiohttpClient(may_connect=lambda address: True)
        replies = []
        for text in ("a", "a", "b"):
            reply = await client.request(
                "POST",
                f"{server.base_url}/chat/completions",
                json_body=_body(text),
                timeout_s=5,
                max_bytes=1 << 20,
            )
            replies.append(json.loads(reply.body)["choices"][0]["message"]["content"])
        await client.close()
        assert replies[0] == replies[1] != replies[2]
        assert json.loads(replies[0]) == verdict_of(server.seen[0].content)
        assert (server.num_calls, server.num_paid_twice, len(server.paid)) == (3, 1, 2)


async def test_a_scripted_fault_comes_once_and_is_not_paid() -> None:
    with in_thread(JudgeServer(faults=first_tries_fail(Fault.STORM, share=1.0))) as server:
        client = AiohttpClient(may_connect=lambda address: True)
        statuses = []
        for _ in range(2):
            reply = await client.request(
                "POST",
                f"{server.base_url}/chat/completions",
                json_body=_body("a"),
                timeout_s=5,
                max_bytes=1 << 20,
            )
            statuses.append((reply.status, reply.headers.get("retry-after")))
        await client.close()
    assert statuses == [(429, "0.05"), (200, None)]
    assert (server.paid.total(), server.faults_made) == (1, {Fault.STORM: 1})
