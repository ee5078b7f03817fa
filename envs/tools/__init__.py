"""The tools of the policy, one file each: what it is told, what it may write, what it reads back.

A tool is given providers (envs/provider.py), on the web, on disk or behind a store. In: raw JSON
arguments as the policy wrote them; only fields that the schema names reach a provider, and none as
a path or a header. Out: a ToolResult, rendered once, short and printable but still untrusted. A bad
argument is an `ArgumentsError` with one sentence for the policy; a provider that is down is a
ToolError. `envs.toolbox.LocalToolbox` turns both into results.
"""

from envs.tools.browse import BrowseTool
from envs.tools.image_search import ImageSearchTool
from envs.tools.search import SearchTool

__all__ = ["BrowseTool", "ImageSearchTool", "SearchTool"]
