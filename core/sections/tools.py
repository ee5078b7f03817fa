"""The tools of the policy."""

from typing import Literal

from pydantic import Field

from core.sections.base import Section


class ToolsConfig(Section):
    search: Literal["nano", "serper"] = "nano"
    top_k: int = Field(3, ge=1, le=20)
    """Results of one query, and images of one image search."""
    max_images_per_search: int = Field(3, ge=1, le=5)
    timeout_s: float = Field(30.0, gt=0)
    cache_path: str | None = None
    """SQLite file of the tool cache; None: runs/<name>/tools.sqlite."""
