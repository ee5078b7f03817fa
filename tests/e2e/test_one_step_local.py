"""One whole training step in one process: real episodes, grading and controller over fakes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.checkpoints import Checkpoints
from cluster.controller import Controller
from cluster.grading import Grader
from cluster.local import LocalLearner, LocalPool
from cluster.parts import Mode
from cluster.track.recorder import METRICS, TRAJECTORIES, JsonlRecorder, read_rows
from cluster.track.timeline import Timeline
from core.config import Config, build_config
from core.protocols import GenerateRequest
from core.records import RolloutId, Score, Task, ToolResult, Trajectory
from envs.chat import ChatFormat
from envs.episode import EpisodeLimits, run_episode
from rewards.reward import DualReward
from tests.builders import make_task, png_bytes
from tests.builders_cluster import save_whole
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge, text_verdict
from tests.fakes.learner import FakeLearner
from tests.fakes.policy import ScriptedPolicy
from tests.fakes.tools import FakeToolbox
from tests.tiny_model import build_tiny_policy

LIMITS = EpisodeLimits(
    max_turns=4, max_tokens_per_turn=400, max_context=4000, max_images_per_search=2
)
SEARCH = (
    '<think>look</think><tool_call>{"name": "search", "arguments": {"queries": ["Z"]}}</tool_call>'
)


def answer(words: str) -> str:
    return (
        f'<think>done</think><answer>{{"gen_prompt": "{words}", "reference_images": []}}</answer>'
    )


class Tasks:
    def __init__(self, store: MemoryImageStore) -> None:
        self._truth = store.put(png_bytes())

    def task(self, ordinal: int) -> Task:
        return make_task(ordinal, ground_truth=self._truth)


class Run:
    """The controller of a run over real episodes; everything heavy is a fake."""

    def __init__(self, folder: Path, config: Config, chat: ChatFormat) -> None:
        self.turns: Counter[RolloutId] = Counter()
        self.store = MemoryImageStore()
        self.chat = chat
        self.engine = ScriptedPolicy(self.chat, self.speak)
        self.toolbox = FakeToolbox({"search": ToolResult(text="Zorvia: red stripes.")})
        self.learner = FakeLearner()
        self.recorder = JsonlRecorder(folder / "run")
        self.config = config
        timeline = Timeline(self.recorder.span)
        judge = FakeJudge(grade_text=lambda task, answer: text_verdict(self._grade(answer)))
        grader = Grader(
            reward=DualReward(judge=judge, text_weight=0.5, na_rule="renormalise"),
            image_model=FakeImageModel(self.store),
            render=config.render,
            masked_reasons=(),
            timeline=timeline,
        )
        self.controller = Controller(
            config=config,
            tasks=Tasks(self.store),
            pool=LocalPool(self.engine, self.play),
            toolbox=self.toolbox,
            grader=grader,
            learner=LocalLearner(self.learner),
            recorder=self.recorder,
            timeline=timeline,
        )

    def speak(self, request: GenerateRequest) -> str:
        """Member 0 forgets to search; member 2 never answers; member 1 searches, then answers."""
        turn = self.turns[request.rollout_id]
        self.turns[request.rollout_id] += 1
        match request.rollout_id.index:
            case 0:
                return answer("a flag")
            case 1:
                return answer("flag of Zorvia red stripes") if turn else SEARCH
            case _:
                return f"<think>lost {turn}</think>"

    @staticmethod
    def _grade(answer: Any) -> float:
        return 1.0 if "red" in answer.gen_prompt else 0.25

    async def play(self, task: Task, rollout_id: RolloutId, mode: Mode) -> Trajectory:
        return await run_episode(
            task,
            rollout_id=rollout_id,
            policy=self.engine,
            toolbox=self.toolbox,
            images=self.store,
            chat=self.chat,
            system_prompt="Tools: search.",
            limits=LIMITS,
            temperature=1.0,
            top_p=1.0,
            seed=0,
        )


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return ChatFormat.load(build_tiny_policy(tmp_path_factory.mktemp("policy")))


@pytest.fixture
def config() -> Config:
    return build_config({"train": {"groups_per_step": 2, "group_size": 3, "steps": 2}})


def test_one_step_from_tasks_to_new_weights(
    tmp_path: Path, config: Config, chat: ChatFormat
) -> None:
    run = Run(tmp_path, config, chat)
    run.controller.start()
    (report,) = run.controller.advance()
    run.controller.close()
    run.recorder.close()

    assert run.learner.events == [("update", 1, (0, 1)), ("publish", 1)]
    assert run.engine.policy_version == 1
    values = [0.5 * 0.25 + 0.5 * 0.5, 0.5 * 1.0 + 0.5 * 0.5, 0.0]
    assert report.metrics["reward/mean"] == pytest.approx(sum(values) / 3)
    assert report.metrics["tools/search"] == pytest.approx(1 / 3)
    assert report.metrics["groups/consumed"] == 2
    rows = list(read_rows(tmp_path / "run" / TRAJECTORIES))
    assert sorted(row["rollout"] for row in rows) == sorted(
        f"{ordinal}.{index}.0" for ordinal in (0, 1) for index in range(3)
    )
    assert [row["step"] for row in read_rows(tmp_path / "run" / METRICS)] == [1]


def test_a_run_goes_on_from_its_checkpoint(
    tmp_path: Path, config: Config, chat: ChatFormat
) -> None:
    first = Run(tmp_path / "first", config, chat)
    first.controller.start()
    first.controller.advance()
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    save_whole(
        checkpoints,
        state=first.controller.frontier_state,
        config=config,
        save_learner=first.controller.save_learner,
    )
    first.controller.close()

    second = Run(tmp_path / "second", config, chat)
    newest = checkpoints.latest()
    assert newest is not None
    second.controller.start()
    second.controller.restore(newest)
    assert second.engine.policy_version == 1
    (report,) = second.controller.advance()
    second.controller.close()
    assert report.step == 2
    assert second.learner.events[-2] == ("update", 2, (2, 3))


def test_evaluation_plays_the_same_episodes_without_a_step(
    tmp_path: Path, config: Config, chat: ChatFormat
) -> None:
    run = Run(tmp_path, config, chat)
    tasks = [Tasks(run.store).task(ordinal) for ordinal in range(3)]
    run.controller.start()
    result = run.controller.run(run.controller.evaluations.play(tasks))
    run.controller.close()
    assert [isinstance(member.outcome, Score) for member in result.members] == [True] * 3
    assert result.num_failed == 0
    assert run.learner.events == []
