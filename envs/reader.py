"""Kept answers read on the node of their store, with no actor in between.

In: a tool call. Out: its result, exactly as the toolbox would give it, or None: ask the toolbox.
Nothing is fetched and no image is pinned, so results with images are left to the toolbox.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from core.records import ToolCall, ToolResult
from envs.observations import call_key, canonical_call
from envs.store.library import Library
from envs.store.read_through import NotKept
from envs.tools.base import ArgumentsError, ProviderTool


class StoreReader:
    """`tools` are over `library` without providers; what it answers counts for the session."""

    def __init__(self, tools: Sequence[ProviderTool[Any]], library: Library) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self._library = library

    async def read(self, call: ToolCall) -> ToolResult | None:
        """Raises ToolError when the disk does."""
        started = time.monotonic()
        tool = self._tools.get(call.name)
        if tool is None:
            return None
        try:
            arguments = tool.read(call.arguments)
            result = await tool.run(arguments)
        except (ArgumentsError, NotKept):
            return None
        if result.images:
            return None
        self._library.tallies.add("calls")
        await self._library.flush_if_due()
        key = call_key(canonical_call(call.name, arguments.model_dump()))
        return replace(result, call_key=key, latency_s=time.monotonic() - started)

    def forget(self) -> None:
        """Drop what is in memory."""
        self._library.forget()
