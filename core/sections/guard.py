"""What the tools may reach, and what the policy may never be shown."""

from pydantic import Field

from core.sections.base import Section


class GuardConfig(Section):
    allow: tuple[str, ...] = ()
    """Private services that a result may point at, as host:port, e.g. localhost:8888."""
    blocked_hosts: tuple[str, ...] = ()
    """Refused with all names below them, e.g. huggingface.co."""
    first_byte_s: float = Field(10.0, gt=0)
    """For the headers of a page or an image to arrive."""
