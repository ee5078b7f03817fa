"""What the tools may reach, and what the policy may never be shown."""

from pydantic import Field

from core.sections.base import Section


class GuardConfig(Section):
    allow: tuple[str, ...] = ()
    """Private services that a result may point at, as host:port, e.g. localhost:8888."""
    blocked_hosts: tuple[str, ...] = ()
    """Refused with all names below them, e.g. huggingface.co; their pages and images never reach
    the policy."""
    benchmark: str | None = None
    """The JSON file of a benchmark (KnowGen-Bench.json, images beside it); its ground-truth images
    and what quotes its prompts never reach the policy. Name it in every run that is measured by
    it, and in the training of what is."""
    first_byte_s: float = Field(10.0, gt=0)
    """For the headers of a page or an image to arrive."""
