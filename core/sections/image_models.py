"""What an image model is asked with: the call of a diffusers pipeline, or the API of a provider."""

from typing import Any, Literal

from pydantic import Field

from core.sections.base import Section


class PipelineCallConfig(Section):
    """Which argument of a diffusers pipeline takes what; null: the pipeline has no such argument.

    Checked against the pipeline's signature when it is loaded.
    """

    pipeline_class: str = Field("DiffusionPipeline", pattern=r"^[A-Za-z]\w*$")
    """A class of diffusers; DiffusionPipeline takes the one that the folder names."""
    text_class: str | None = Field(None, pattern=r"^[A-Za-z]\w*$")
    """Draws when there are no references, around the same components; null: the same pipeline."""
    prompt: str = "prompt"
    references: str | None = None
    """E.g. "image"; null: the model takes no references."""
    references_as: Literal["list", "single"] = "list"
    """single: the argument takes one image, so that `max_references` must be 1."""
    max_references: int = Field(1, ge=1)
    """Counts only where `references` is set."""
    steps: str | None = "num_inference_steps"
    guidance: str | None = "guidance_scale"
    """Is given `render.true_cfg_scale`."""
    negative_prompt: str | None = None
    """Is given a blank prompt when `render.true_cfg_scale` is above 1."""
    height: str | None = "height"
    width: str | None = "width"
    extra: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further arguments, given as they are."""


class ImageApiConfig(Section):
    """A provider's image model behind HTTP."""

    model: str = ""
    """As the provider names it, e.g. "gpt-image-1"."""
    base_url: str = ""
    """Empty: the provider's own; any endpoint of the same shape works."""
    api_key_env: str | None = None
    """The variable that holds the key. Null: the provider's usual one; "": no key is sent."""
    size: str = ""
    """As the provider writes it: "1024x1024" (openai), "2K" (seedream, gemini); empty: not sent."""
    aspect_ratio: str = ""
    """Gemini only, e.g. "16:9"; empty: not sent."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request, given as they are; they win over ours."""
    max_references: int | None = Field(None, ge=0)
    """Null: what the provider's newest model takes; a smaller endpoint has to be told here."""
    usd_per_image: float = Field(0.0, ge=0)
    """What one delivered image costs; counted, never fetched."""
    per_second: float = Field(2.0, gt=0)
    max_in_flight: int = Field(8, ge=1)
    max_tries: int = Field(5, ge=1)
    """Of one image; every retry of an API model is made by this one layer."""
    deadline_s: float = Field(900.0, gt=0)
    """Of one image with all its tries; `render.timeout_s` bounds each of them."""
    max_image_mib: int = Field(48, ge=1, le=512)
    """A larger image is refused while it arrives."""
