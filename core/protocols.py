"""The seams. Each is what one room needs from another, as a Protocol; fakes live in tests/fakes/.

Policy      tokens in, tokens out (vLLM, a scripted teacher, a fake)
Engine      a Policy whose weights can be replaced while it runs
Toolbox     runs tool calls (in process, or behind the search actor)
ImageStore  image bytes by content
ImageModel  RenderRequest -> RenderedImage
Judge       verdicts on an image and on an answer
Reward      parts and blend of a score, given a judge
Learner     groups in, one optimizer step, weights out
HttpClient  the one narrow way out to the network
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from core.places import Urgency
from core.records import (
    Answer,
    Completion,
    Group,
    ImageRef,
    LearnerReport,
    RenderedImage,
    RenderRequest,
    RolloutId,
    Sampling,
    Score,
    ScorePart,
    SeenImage,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    WeightUpdate,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One turn to be sampled."""

    rollout_id: RolloutId
    engine_ids: tuple[int, ...]
    """The whole context, one placeholder per image."""
    images: tuple[SeenImage, ...]
    """Every image of the context, in order."""
    sampling: Sampling
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    prompt_ids: tuple[int, ...]
    """The context, expanded as the engine used it."""
    completion: Completion


class Policy(Protocol):
    async def generate(self, request: GenerateRequest) -> Generated:
        """Sample one turn. Raises InfraError when the engine fails."""
        ...


class Engine(Policy, Protocol):
    @property
    def policy_version(self) -> int: ...

    async def apply_weights(
        self, updates: Sequence[WeightUpdate], payloads: Sequence[Sequence[Any]]
    ) -> None:
        """Replace the weights between two steps; running requests go on with the new ones.

        `updates` is one update, or a dense one and the deltas that build on it: the engine loads
        what comes out at the end, once. Each payload has one uint8 array per chunk. Raises
        InfraError when a checksum or a base version does not fit.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """What the policy is told of a tool."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments."""


class Toolbox(Protocol):
    async def call(self, call: ToolCall, *, rollout_id: RolloutId) -> ToolResult:
        """Run one call; an unknown tool name is an ordinary result that says so."""
        ...

    async def pin(self, ordinal: int, images: Sequence[ImageRef]) -> bool:
        """Keep these images for a training task of an earlier launch; False: one of them is
        gone."""
        ...

    async def release(self, ordinals: Sequence[int]) -> None:
        """These training tasks have ended: the images that their episodes were shown may go.
        Those of held-out tasks are kept as long as the run."""
        ...


class ImageStore(Protocol):
    def put(self, data: bytes) -> ImageRef:
        """Keep encoded image bytes. Raises DataError when they are not a readable image."""
        ...

    def get(self, ref: ImageRef) -> bytes:
        """The bytes, digest verified. Raises InfraError when they are missing or changed."""
        ...


class ImageModel(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def max_references(self) -> int:
        """How many reference images one request may hold."""
        ...

    @property
    def spent_usd(self) -> float:
        """Dollars paid since it was made."""
        ...

    async def render(self, request: RenderRequest, *, urgency: Urgency = ()) -> RenderedImage:
        """`urgency`: who goes first where renders wait for room. Raises RenderError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """What a verdict took."""

    cached: bool = False
    """True: nothing was paid this time."""
    seconds: float = 0.0
    cost_usd: float = 0.0
    tokens: int = 0
    """Prompt and completion, refused replies included."""
    votes: int = 1
    """Verdicts that the grades are the mean of."""
    spread: float = 0.0
    """Largest difference between two votes in one grade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVerdict:
    """K-Score dimensions in {0, 0.5, 1} (arXiv 2603.28767, section 4.2)."""

    faithfulness: float
    visual_correctness: float
    text_accuracy: float | None
    """None: no text is asked for."""
    aesthetics: float
    rationale: str
    took: Took = Took()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextVerdict:
    """Is the answer sufficient to make the ground truth: {0, .25, .5, .75, 1}."""

    value: float
    rationale: str
    took: Took = Took()


class Judge(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def prompt_sha(self) -> str:
        """Digest of the rubric in use; "" when there is none."""
        ...

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        """Raises JudgeError."""
        ...

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        """Raises JudgeError."""
        ...

    async def spent_usd(self) -> float:
        """Dollars paid since it was made, for replies that were no verdict too."""
        ...


class Reward(Protocol):
    async def text_parts(self, *, task: Task, answer: Answer) -> tuple[ScorePart, ...]:
        """Needs no image, so it runs while the render runs. Raises JudgeError."""
        ...

    async def image_parts(self, *, task: Task, rendered: RenderedImage) -> tuple[ScorePart, ...]:
        """Raises JudgeError."""
        ...

    def shaping_parts(self, trajectory: Trajectory) -> tuple[ScorePart, ...]:
        """Parts that need no judge, with their weights in the whole; () when all are off."""
        ...

    def blend(
        self,
        *,
        text_parts: Sequence[ScorePart],
        image_parts: Sequence[ScorePart],
        shaping_parts: Sequence[ScorePart] = (),
    ) -> Score: ...


class Learner(Protocol):
    def begin(self, groups: Sequence[Group]) -> None:
        """Work ahead on groups that will be among those of the next update. Raises as that."""
        ...

    def update(self, groups: Sequence[Group]) -> LearnerReport:
        """One optimizer step on these groups, those that were begun among them. Raises
        LearnerError, FidelityError."""
        ...

    def publish(self) -> tuple[WeightUpdate, Any]:
        """The current weights: what they are, and one array (or a reference to it) per chunk."""
        ...

    def save(self, folder: str) -> int:
        """Policy (a Hugging Face folder) and resumable state, whole or not at all; returns the
        version that was saved."""
        ...

    def load(self, folder: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient(Protocol):
    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json_body: Any = None,
        timeout_s: float,
        max_bytes: int,
    ) -> HttpResponse:
        """One exchange, never retried here. Raises ToolError when no response came."""
        ...
