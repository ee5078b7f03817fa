"""A training run as latencies alone: a profile, and engines that only wait.

The profile is that of an agent which searches over several turns and has its answer drawn by a
large diffusion model. Its seconds are assumptions, stated here, not measurements: a turn of some
300 tokens at 50 tokens/s, a web search or page, 40 diffusion steps at one megapixel, a judgement by
a hosted model, an update of a model of 8 billion weights from host memory.

Every latency is a pure function of what it belongs to (rollout, turn, picture), so that all ways to
schedule the same tasks meet the same ones.
"""

import asyncio
import hashlib
import io
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from actors.render_client import Painted
from core.protocols import ImageVerdict, TextVerdict
from core.records import (
    Answer,
    Completion,
    FinishReason,
    Group,
    ImageRef,
    LearnerReport,
    RenderRequest,
    RolloutId,
    Sampling,
    StopReason,
    Task,
    TaskMeta,
    TensorSpec,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
    WeightChunk,
    WeightUpdate,
)

TURN_TOKENS = 300
OBSERVATION_TOKENS = 700
"""A rollout of 10 turns ends with a context of some 12,000 tokens."""
FIRST_PROMPT_TOKENS = 2_000
LONGEST_CONTEXT = tuple(range(1000, 1000 + 20_000))
"""More than any rollout's."""
GRADES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Seconds of the modelled run; engines wait for a `speedup`-th of them."""

    seed: str = ""
    """Another one draws other seconds."""
    speedup: float = 1.0
    max_turns: int = 10
    """The number of turns is uniform from 1 to here."""
    generate_median_s: float = 6.0
    generate_sigma: float = 0.6
    """Of the log-normal distribution."""
    search_median_s: float = 1.2
    search_sigma: float = 0.9
    render_s: tuple[float, float] = (20.0, 60.0)
    """Uniform."""
    judge_s: tuple[float, float] = (2.0, 10.0)
    """Uniform; an answer has two judgements, of its text and of its picture."""
    learn_s: float = 60.0
    rollout_workers: int = 8
    turns_at_once: int = 1
    """That a worker generates side by side; a search occupies nothing."""
    render_replicas: int = 8
    judge_lanes: int = 16
    groups_per_step: int = 8
    group_size: int = 6

    def num_turns(self, rollout: RolloutId) -> int:
        return random.Random(f"{self.seed}turns {rollout}").randint(1, self.max_turns)

    def generate(self, rollout: RolloutId, turn: int) -> float:
        median_s, sigma = self.generate_median_s, self.generate_sigma
        return self._log_normal(f"generate {rollout} {turn}", median_s, sigma)

    def search(self, rollout: RolloutId, turn: int) -> float:
        return self._log_normal(f"search {rollout} {turn}", self.search_median_s, self.search_sigma)

    def render(self, request: RenderRequest) -> float:
        return self._uniform(f"render {request.prompt}", self.render_s)

    def judge(self, what: str) -> float:
        return self._uniform(f"judge {what}", self.judge_s)

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speedup)

    def _log_normal(self, key: str, median_s: float, sigma: float) -> float:
        return random.Random(self.seed + key).lognormvariate(math.log(median_s), sigma)

    def _uniform(self, key: str, bounds: tuple[float, float]) -> float:
        return random.Random(self.seed + key).uniform(*bounds)


class Tasks:
    """Implements envs.tasks.TaskSource, without end."""

    def task(self, ordinal: int) -> Task:
        return Task(
            task_id=f"task-{ordinal}",
            ordinal=ordinal,
            prompt="Draw the flag of the country where the Zorvian festival is held.",
            ground_truth=None,
            meta=TaskMeta(category="culture"),
        )


class LatencyWorker:
    """Has the methods of actors.rollout.RolloutWorker that the pool calls."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._engine = asyncio.Semaphore(profile.turns_at_once)
        self._version = 0
        self._busy_s = 0.0

    async def run(
        self, task: Task, rollout_id: RolloutId, mode: Literal["train", "eval"] = "train"
    ) -> Trajectory:
        turns: list[Turn] = []
        num_turns = self._profile.num_turns(rollout_id)
        for number in range(num_turns):
            started_s = time.time()
            generate_s = self._profile.generate(rollout_id, number)
            async with self._engine:
                version = self._version
                await self._profile.wait(generate_s)
                self._busy_s += generate_s
            tool_s = 0.0
            if number < num_turns - 1:
                tool_s = self._profile.search(rollout_id, number)
                await self._profile.wait(tool_s)
            turns.append(
                _turn(number, version, started_s, generate_s, tool_s, last=number == num_turns - 1)
            )
        return Trajectory(
            rollout_id=rollout_id,
            task=task,
            turns=tuple(turns),
            stop_reason=StopReason.ANSWER,
            answer=Answer(gen_prompt=f"the answer of {rollout_id}", chosen=(), notes=()),
            shown=(),
        )

    async def apply_weights(
        self, updates: Sequence[WeightUpdate], payload_refs: Sequence[Sequence[Any]]
    ) -> None:
        self._version = updates[-1].version

    async def busy_s(self) -> float:
        """Seconds of the profile in which it has generated."""
        return self._busy_s

    async def ping(self) -> str:
        return "pong"


class LatencyReplica:
    """One image model that draws one picture at a time."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._busy_s = 0.0

    async def paint(self, request: RenderRequest) -> bytes:
        seconds = self._profile.render(request)
        await self._profile.wait(seconds)
        self._busy_s += seconds
        return _picture(request.prompt)

    async def busy_s(self) -> float:
        return self._busy_s


class LatencyPainter:
    """Implements actors.render_client.RemotePainter over replicas: whoever is free draws."""

    def __init__(self, paint: Sequence[Any]) -> None:
        """`paint`: the method of each replica."""
        self._idle: asyncio.Queue[Any] = asyncio.Queue()
        for method in paint:
            self._idle.put_nowait(method)

    async def paint(self, request: RenderRequest, *, references: tuple[bytes, ...]) -> Painted:
        method = await self._idle.get()
        try:
            return Painted(data=await method(request))
        finally:
            self._idle.put_nowait(method)


class LatencyJudge:
    """Implements core.protocols.Judge."""

    name = "latency"
    prompt_sha = ""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._lanes = asyncio.Semaphore(profile.judge_lanes)

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        await self._judge(image.sha256)
        grade = _grade(image.sha256)
        return ImageVerdict(
            faithfulness=grade,
            visual_correctness=grade,
            text_accuracy=grade,
            aesthetics=grade,
            rationale="drawn by lot",
        )

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        await self._judge(answer.gen_prompt)
        return TextVerdict(value=_grade(answer.gen_prompt), rationale="drawn by lot")

    async def _judge(self, what: str) -> None:
        async with self._lanes:
            await self._profile.wait(self._profile.judge(what))


class LatencyLearner:
    """Implements cluster.parts.RemoteLearner; saving and loading have nothing to keep."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._version = 0
        self._begun = 0

    async def begin(self, groups: Sequence[Group]) -> None:
        """Every group of a step takes an equal share of its seconds."""
        self._begun += len(groups)
        share = len(groups) / self._profile.groups_per_step
        await self._profile.wait(self._profile.learn_s * share)

    async def step(self, groups: Sequence[Group]) -> LearnerReport:
        left, self._begun = len(groups) - self._begun, 0
        await self._profile.wait(self._profile.learn_s * left / len(groups))
        self._version += 1
        trajectories = [m.trajectory for group in groups for m in group.scored if m.trajectory]
        return LearnerReport(
            version=self._version,
            metrics={},
            seconds=self._profile.learn_s,
            num_samples=len(trajectories),
            num_tokens=sum(one.num_sampled_tokens for one in trajectories),
        )

    async def publish(self) -> tuple[WeightUpdate, list[npt.NDArray[np.uint8]]]:
        update = WeightUpdate(
            version=self._version,
            base_version=None,
            manifest=(TensorSpec(name="version", dtype="int64", shape=(1,), offset=0),),
            chunks=(WeightChunk(start=0, stop=8, checksum="", wire_checksum=""),),
        )
        return update, [np.array([self._version], dtype=np.int64).view(np.uint8)]

    async def save(self, folder: str) -> int:
        return self._version

    async def saved(self) -> None:
        """At once: `save` has written it."""

    async def load(self, folder: str) -> None:
        """Nothing."""


def _turn(
    number: int, version: int, started_s: float, generate_s: float, tool_s: float, *, last: bool
) -> Turn:
    context = FIRST_PROMPT_TOKENS + number * (TURN_TOKENS + OBSERVATION_TOKENS)
    query = f'{{"queries": ["zorvian festival {number}"]}}'
    return Turn(
        engine_ids=_ids(context),
        prompt_ids=_ids(context),
        images=(),
        completion=Completion(
            token_ids=_ids(TURN_TOKENS),
            logprobs=(-0.5,) * TURN_TOKENS,
            finish_reason=FinishReason.STOP,
            sampling=Sampling(temperature=0.7, top_p=0.95, banned_ids=(3, 4), seed=number),
            policy_versions=((version, 0, TURN_TOKENS),),
        ),
        text="a thought of some length; " * 40,
        tool_call=None if last else ToolCall(name="search", arguments=query),
        tool_result=None if last else ToolResult(text="what a page says; " * 150),
        started_s=started_s,
        generate_s=generate_s,
        tool_s=tool_s,
    )


def _ids(count: int) -> tuple[int, ...]:
    """Rows share their ids, as those of an episode that came out of a worker do."""
    return LONGEST_CONTEXT[:count]


def _grade(key: str) -> float:
    return random.Random(key).choice(GRADES)


def _picture(prompt: str) -> bytes:
    """A small PNG in a colour of its own, since pictures are kept by content."""
    red, green, blue = hashlib.sha256(prompt.encode()).digest()[:3]
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (red, green, blue)).save(buffer, format="PNG")
    return buffer.getvalue()
