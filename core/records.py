"""The records that flow through one training step, in the order in which they are made.

Task -> Turn* -> Trajectory -> RenderRequest -> RenderedImage -> Score | Failure -> Group
-> TrainingSample -> WeightUpdate. Every record is frozen and complete when it is made: a later
stage returns a new record instead of filling in an old one. Image bytes never travel inside a
record; an `ImageRef` names them by content and an `ImageStore` (core/protocols.py) holds them.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from core.wire import PackedRow, pack_rows, unpack_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """An image by content. Equal bytes have equal refs."""

    sha256: str
    """Hex digest of the encoded bytes (PNG, JPEG or WebP)."""
    media_type: str
    """E.g. "image/png"; sniffed from the bytes, never taken from a header."""
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMeta:
    """What is known about a task beside its prompt; used by curricula, gates and tables."""

    category: str
    """Lower case, e.g. "biology"; one of KnowGen's categories where the task set has them."""
    difficulty: str = ""
    needs_search: bool = True
    """False: the prompt can be answered at once, and searching costs."""
    needs_image: bool = True
    """False: no reference image is needed for a right picture."""
    hops: int = 1
    """Facts to be chained before the subject of the picture is known; 0 when none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt to draw. `ordinal` is its place in the endless, seeded stream of tasks."""

    task_id: str
    ordinal: int
    prompt: str
    ground_truth: ImageRef | None
    rubric: str | None = None
    """What a judge should look for in words (e.g. WISE's explanation)."""
    reference: ImageRef | None = None
    """The reference a perfect agent would choose, where the task set knows it (metrics only)."""
    meta: TaskMeta


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RolloutId:
    """Names one trajectory: member `index` of the group of task `ordinal`, re-issue `attempt`."""

    ordinal: int
    index: int
    attempt: int = 0
    heldout: bool = False
    """Of an evaluation, whose tasks share their ordinals with those of training."""

    def __str__(self) -> str:
        return f"{self.ordinal}.{self.index}.{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenImage:
    """An image as the processor showed it to the policy."""

    ref: ImageRef
    grid_thw: tuple[int, int, int]
    """Patches in time, height and width, before merging."""
    num_tokens: int
    """Image placeholder tokens it takes in the expanded prompt."""
    pixel_digest: str
    """SHA-256 of the processor's float32 pixel values; rollout and learner must agree on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """An image that a search returned, before the episode gave it an IMG_### id."""

    ref: ImageRef
    title: str
    page_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call as the policy emitted it."""

    name: str
    arguments: str
    """Raw JSON text, exactly as emitted; tools validate it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool gave back. `text` is untrusted."""

    text: str
    images: tuple[FoundImage, ...] = ()
    cached: bool = False
    error: str | None = None
    """Set when the provider failed (our fault, see rule 1); a bad argument is plain `text`."""
    latency_s: float = 0.0
    cost_usd: float = 0.0
    upstream_calls: int = 0
    """Operations that left the machine for this call; 0 when it was cached or shared."""
    stand_in: str | None = None
    """The recorded query that a replay answered with, when this one was not recorded."""
    call_key: str = ""
    """Equal for calls that mean the same however they are written; "" for a bad call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn; kept with every completion so that the learner can repeat it."""

    temperature: float
    top_p: float
    banned_ids: tuple[int, ...]
    """Never sampled: image and vision placeholders."""
    seed: int


class FinishReason(StrEnum):
    STOP = "stop"
    """The end-of-turn token was sampled."""
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Tokens that the policy sampled in one turn."""

    token_ids: tuple[int, ...]
    """[T], the stop token included."""
    logprobs: tuple[float, ...]
    """[T] log pi at the sampling temperature over the vocabulary less banned_ids, before top-p.
    NaN where the policy tells none (envs/chat_policy.py): for evaluation, never for training."""
    finish_reason: FinishReason
    sampling: Sampling
    policy_versions: tuple[tuple[int, int, int], ...]
    """(version, start, end) spans that cover [0, T)."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One call of the policy and what the tool answered.

    Example: turn 0 has prompt_ids = system + task; turn 1 has prompt_ids = turn 0's prompt_ids
    + turn 0's completion + the rendered tool result. Nothing is ever re-tokenised.
    """

    engine_ids: tuple[int, ...]
    """What the engine was given: the whole context, one placeholder per image."""
    prompt_ids: tuple[int, ...]
    """The same, expanded as the engine returned it."""
    images: tuple[SeenImage, ...]
    """Every image in the context of this turn, in order."""
    completion: Completion
    text: str
    """The completion decoded, for people and parsers; never encoded again."""
    tool_call: ToolCall | None
    tool_result: ToolResult | None
    repairs: tuple[str, ...] = ()
    """Names of the protocol repairs made in this turn (counted as metrics)."""
    started_s: float
    """Unix time at which generation was asked for."""
    generate_s: float
    tool_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A grounded prompt and its reference images, in the order in which the prompt counts them."""

    gen_prompt: str
    chosen: tuple[ImageRef, ...]
    notes: tuple[str, ...]
    """What to copy from each chosen reference; as long as `chosen`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerError:
    """Why there is no answer; always the agent's own fault."""

    reason: str


class StopReason(StrEnum):
    """Why an episode ended. What each costs stands in core/outcomes.py."""

    ANSWER = "answer"
    NO_ANSWER = "no_answer"
    """The forced last turn held no answer."""
    BAD_ANSWER = "bad_answer"
    """The answer's JSON could not be read, or it names an image that was never shown."""
    BAD_FORMAT = "bad_format"
    """Too many turns with neither a tool call nor an answer."""
    REPEATED = "repeated"
    """The same turn twice, or two truncated turns in a row."""
    TOO_LONG = "too_long"
    """The context budget is used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One finished episode."""

    rollout_id: RolloutId
    task: Task
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    answer: Answer | AnswerError
    shown: tuple[tuple[str, FoundImage], ...]
    """("IMG_001", image) in the order of first sight."""

    @property
    def tool_errors(self) -> tuple[str, ...]:
        """Provider failures met on the way; in training they make the member a Failure."""
        return tuple(
            t.tool_result.error for t in self.turns if t.tool_result and t.tool_result.error
        )

    @property
    def num_sampled_tokens(self) -> int:
        return sum(len(turn.completion.token_ids) for turn in self.turns)

    def __reduce__(self) -> tuple[Any, ...]:
        """The prompts of its turns travel as bytes: they are nearly all of a trajectory."""
        rows = [row for turn in reversed(self.turns) for row in (turn.prompt_ids, turn.engine_ids)]
        bare = tuple(replace(turn, prompt_ids=(), engine_ids=()) for turn in self.turns)
        rest = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _unpacked, ({**rest, "turns": bare}, pack_rows(rows))


def _unpacked(fields: dict[str, Any], packed: tuple[PackedRow, ...]) -> Trajectory:
    rows = iter(unpack_rows(packed))
    last_first = [
        replace(turn, prompt_ids=next(rows), engine_ids=next(rows))
        for turn in reversed(fields["turns"])
    ]
    return Trajectory(**{**fields, "turns": tuple(reversed(last_first))})


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRequest:
    """A pure function's whole input: equal requests give equal images."""

    prompt: str
    references: tuple[ImageRef, ...]
    seed: int
    steps: int
    model: str

    @property
    def key(self) -> str:
        """Content digest; the cache key."""
        parts = [self.model, str(self.steps), str(self.seed), *(r.sha256 for r in self.references)]
        return hashlib.sha256("\x00".join([*parts, self.prompt]).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedImage:
    image: ImageRef
    request: RenderRequest
    """What was drawn: with `dropped_references` above 0 no longer what was asked for."""
    seconds: float
    cached: bool
    cost_usd: float = 0.0
    """Of this picture, and of a member's other seeds; 0 for what was cached."""
    dropped_references: int = 0
    """Left out by `render.extra_references = renumber`; the prompt no longer points at them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a number came from (rule 10)."""

    judge: str
    """Judge and model, e.g. "pixels" or "openai:gpt-4.1"."""
    prompt_sha: str
    """Digest of the rubric that was used; "" when none."""
    cached: bool = False
    seconds: float = 0.0
    cost_usd: float = 0.0
    tokens: int = 0
    """Prompt and completion, refused replies included."""
    votes: int = 1
    """Verdicts that the value is the mean of."""
    spread: float = 0.0
    """Largest difference between two of these votes in one grade; 1 where only some of them say
    that it applies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePart:
    """One named piece of a score, e.g. faithfulness."""

    name: str
    value: float | None
    """In [0, 1]; None when the dimension does not apply."""
    weight: float
    """Its weight in the whole score as it was computed; 0.0 when it does not apply."""
    rationale: str
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A reward in [0, 1] and the parts it was made of."""

    value: float
    parts: tuple[ScorePart, ...]


class Stage(StrEnum):
    """Where one of our own faults happened."""

    INFRA = "infra"
    TOOL = "tool"
    RENDER = "render"
    JUDGE = "judge"
    LEARNER = "learner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Our fault, not the agent's: an outcome, never a number."""

    stage: Stage
    error_type: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One trajectory of a group with what became of it."""

    rollout_id: RolloutId
    trajectory: Trajectory | None
    """None when the rollout itself failed."""
    rendered: RenderedImage | None
    outcome: Score | Failure
    masked: bool = False
    """True: counted, but left out of the group's statistics and of the loss (core/outcomes.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All members of one task: what GRPO normalises over."""

    task: Task
    members: tuple[Member, ...]

    @property
    def scored(self) -> tuple[Member, ...]:
        """Members that count: with a Score, and not masked."""
        return tuple(m for m in self.members if isinstance(m.outcome, Score) and not m.masked)

    @property
    def has_spread(self) -> bool:
        """Whether at least two members scored, and not all the same."""
        values = [m.outcome.value for m in self.scored if isinstance(m.outcome, Score)]
        return len(values) >= 2 and max(values) - min(values) > 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """One sequence for the learner; all per-token fields have length L.

    Example (prompt of 3 tokens, completion of 2): token_ids=(5, 6, 7, 8, 9),
    loss_mask=(0, 0, 0, 1, 1), logprobs=(0, 0, 0, -0.1, -0.7), advantages=(0, 0, 0, 1.2, 1.2).
    """

    rollout_id: RolloutId
    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    """1 where the policy sampled the token."""
    logprobs: tuple[float, ...]
    """The rollout's; 0.0 where loss_mask is 0."""
    advantages: tuple[float, ...]
    """0.0 where loss_mask is 0."""
    policy_versions: tuple[int, ...]
    """-1 where loss_mask is 0."""
    images: tuple[SeenImage, ...]
    """In the order of their placeholders in token_ids."""
    sampling: Sampling

    def __post_init__(self) -> None:
        sizes = {
            name: len(getattr(self, name))
            for name in ("token_ids", "loss_mask", "logprobs", "advantages", "policy_versions")
        }
        if len(set(sizes.values())) != 1:
            raise ValueError(f"per-token fields differ in length: {sizes}")
        if math.isnan(sum(self.logprobs)):
            raise ValueError(f"rollout {self.rollout_id} has no log-probabilities to train on")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor inside the flat weight buffer."""

    name: str
    dtype: str
    """numpy-style: "float32", or "bfloat16" (held as two bytes)."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the buffer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChunk:
    """Bytes [start, stop) of the flat weight buffer: whole tensors, sent as one array of uint8."""

    start: int
    stop: int
    checksum: str
    """XXH3-128 of these bytes of the flat buffer, as they are once the update is applied."""
    wire_checksum: str
    """XXH3-128 of the array that travels; the same as `checksum` in a dense update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUpdate:
    """A version of the policy; the payload, one uint8 array per chunk, travels beside it."""

    version: int
    base_version: int | None
    """None: dense, stands alone. A number: a difference to that version's bits."""
    manifest: tuple[TensorSpec, ...]
    chunks: tuple[WeightChunk, ...]
    """In order and without gaps; together the whole flat buffer."""
    lora_scale: float | None = None
    """None: the tensors are the policy's weights. A number: they are factors of what is added to
    the weights of version 0, times this (learners/lora.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerReport:
    """What one optimizer step did."""

    version: int
    """The policy version that the step made."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float
    num_samples: int
    num_tokens: int


def to_jsonable(record: Any) -> Any:
    """A record as plain JSON types: tuples become lists, enums become strings."""
    if isinstance(record, StrEnum):
        return record.value
    if record is None or isinstance(record, (str, int, float)):
        return record
    if hasattr(record, "__dataclass_fields__"):
        return {name: to_jsonable(getattr(record, name)) for name in record.__dataclass_fields__}
    if isinstance(record, Mapping):
        return {str(key): to_jsonable(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_jsonable(item) for item in record]
    return record
