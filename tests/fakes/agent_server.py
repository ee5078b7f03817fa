"""An OpenAI-compatible chat endpoint on loopback that plays the agent's part by a script.

    async with AgentServer(script) as server:
        ... server.base_url

The script is given the task's prompt and how many turns the agent has had; its reply is text, or
an HTTP status that the endpoint refuses with.
"""

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.fakes.loopback import LoopbackServer

Script = Callable[[str, int], str | int]


def call(name: str, **arguments: str) -> str:
    """A turn that calls a tool."""
    text = json.dumps({"name": name, "arguments": arguments})
    return f"<think>I do not know this.</think><tool_call>{text}</tool_call>"


def answer(gen_prompt: str, *img_ids: str) -> str:
    """The turn that ends an episode."""
    references = [{"img_id": name, "note": "its colours"} for name in img_ids]
    text = json.dumps({"gen_prompt": gen_prompt, "reference_images": references})
    return f"<think>Now I do.</think><answer>{text}</answer>"


class AgentServer(LoopbackServer):
    def __init__(self, script: Script) -> None:
        self._script = script
        self.bodies: list[dict[str, Any]] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/chat/completions", self._complete)]

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        system, task, *later = body["messages"]
        assert (system["role"], task["role"]) == ("system", "user")
        turns = sum(message["role"] == "assistant" for message in later)
        said = self._script(_text(task["content"]), turns)
        if isinstance(said, int):
            return web.json_response({"error": {"message": "no"}}, status=said)
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
        )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")
