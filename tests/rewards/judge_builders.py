"""A ModelJudge over an in-memory network, and tasks for it."""

import json
from collections.abc import Callable
from typing import Any

from core.chat_completions import OpenAIChat, Price
from core.endpoint import Endpoint, Limits
from core.errors import JudgeError
from core.protocols import HttpResponse
from core.records import Task
from core.sections.judge import JudgeConfig
from rewards.model_judge import ModelJudge
from rewards.panel import Panel
from rewards.rubrics import Rubrics
from rewards.verdict_cache import VerdictCache
from tests.builders import make_task, png_bytes
from tests.fakes.http import MemoryHttp
from tests.fakes.images import MemoryImageStore

GRADES = {"faithfulness": 1, "visual_correctness": 0.5, "text_accuracy": None, "aesthetics": 1}
GOOD = json.dumps({"rationale": "fine", **GRADES})
LIMITS = Limits(
    per_second=1e6, max_in_flight=8, timeout_s=5, deadline_s=20, max_tries=3, first_pause_s=0.001
)


def completion(text: str, *, finish_reason: str = "stop") -> HttpResponse:
    choice = {"message": {"content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    return HttpResponse(status=200, headers={}, body=body)


def make_panel(
    handler: Callable[..., Any],
    *,
    store: MemoryImageStore | None = None,
    cache: VerdictCache | None = None,
    **config: Any,
) -> tuple[Panel, MemoryHttp]:
    http = MemoryHttp(handler)
    chat = OpenAIChat(
        Endpoint(http, name="judge.test", limits=LIMITS, error=JudgeError),
        base_url="https://judge.test/v1",
        model="m",
        api_key="secret-key",
        error=JudgeError,
        price=Price(prompt_usd=2.0, completion_usd=10.0),
    )
    panel = Panel(
        chat, images=store or MemoryImageStore(), config=JudgeConfig(**config), cache=cache
    )
    return panel, http


def make_judge(
    handler: Callable[..., Any], *, store: MemoryImageStore, **changes: Any
) -> tuple[ModelJudge, MemoryHttp]:
    panel, http = make_panel(handler, store=store, **changes)
    return ModelJudge(panel, Rubrics()), http


def judged_task(store: MemoryImageStore, **changes: Any) -> Task:
    return make_task(ground_truth=store.put(png_bytes((0, 128, 0))), **changes)
