"""agent -> render -> judge: what is made, kept and made again, and what a fault costs."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.bench.agents import EpisodeAgent, RawPrompt
from cluster.bench.journal import Journals
from cluster.bench.parts import judge_settings
from cluster.bench.pipeline import Makers, Pipeline, Width
from cluster.bench.rows import RowResult
from cluster.bench.scorers import KScoreScorer
from core.protocols import ImageVerdict
from core.records import AnswerError, Failure, RolloutId, Stage, StopReason, Task, Trajectory
from core.sections.judge import JudgeConfig
from core.sections.scoring import RenderConfig
from envs.benchmarks import BenchTask
from tests.builders import make_answer, make_failure, make_seen_image, make_trajectory, png_bytes
from tests.builders_bench import make_item
from tests.fakes.image_model import FakeImageModel
from tests.fakes.images import MemoryImageStore
from tests.fakes.judge import FakeJudge
from tests.fakes.pool import FakePool

AGENT, RENDER, JUDGE = "agent", "render", "judge"


class World:
    """Fakes of everything that an evaluation asks, over one folder of rows."""

    def __init__(self, folder: Path, *, with_text: bool = False) -> None:
        self.folder = folder
        self.with_text = with_text
        self.settings = "1 vote"
        self.store = MemoryImageStore()
        self.judge = FakeJudge()
        self.image_model = FakeImageModel(self.store)
        self.items = [make_item(n, prompt=f"prompt {n}") for n in range(5)]
        self.agent: Any = RawPrompt()

    async def run(self, *stages: str) -> tuple[RowResult, ...]:
        """The stages that are named, or all; whatever was asked before is forgotten."""
        stages = stages or (AGENT, RENDER, JUDGE)
        self.judge.events.clear()
        self.image_model.events.clear()
        scorer = KScoreScorer(judge=self.judge, with_text=self.with_text, settings=self.settings)
        journals = Journals(self.folder)
        pipeline = Pipeline(
            Makers(
                agent=self.agent if AGENT in stages else None,
                image_model=self.image_model if RENDER in stages else None,
                scorer=scorer if JUDGE in stages else None,
            ),
            journals=journals,
            render=RenderConfig(),
            width=Width(agent=2, render=2, judge=2),
            reads_answer=self.with_text,
        )
        rows = await pipeline.run(self.items)
        journals.close()
        self.counts = pipeline.counts
        return rows

    @property
    def judged(self) -> list[str]:
        return [event[1] for event in self.judge.events if event[0] == "judge_image"]

    @property
    def drawn(self) -> list[str]:
        return [event[1].prompt for event in self.image_model.events]

    def change(self, place: int, **changes: Any) -> None:
        item = self.items[place]
        self.items[place] = replace(item, task=replace(item.task, **changes))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_every_task_goes_the_whole_way_and_a_second_run_asks_nobody(world: World) -> None:
    rows = await world.run()
    assert [row.judged is not None for row in rows] == [True] * 5
    assert [row.item for row in rows] == world.items
    assert world.counts.made == {AGENT: 5, RENDER: 5, JUDGE: 5}

    assert await world.run() == rows
    assert (world.judged, world.drawn) == ([], [])
    assert world.counts.reused == {AGENT: 5, RENDER: 5, JUDGE: 5}


async def test_the_stages_can_be_run_apart(world: World) -> None:
    whole = await World(world.folder / "whole").run()
    await world.run(AGENT)
    assert (world.drawn, world.judged) == ([], [])
    await world.run(RENDER)
    assert (len(world.drawn), world.judged) == (5, [])
    apart = await world.run(JUDGE)
    assert [row.judged for row in apart] == [row.judged for row in whole]


async def test_a_changed_prompt_makes_its_own_row_again(world: World) -> None:
    await world.run()
    world.change(3, prompt="another prompt")
    await world.run()
    assert (world.drawn, world.judged) == (["another prompt"], ["3"])


async def test_a_changed_rubric_text_or_truth_is_judged_again_and_not_drawn(world: World) -> None:
    await world.run()
    world.change(1, rubric="it must be blue")
    world.change(2, ground_truth=world.store.put(png_bytes((1, 2, 3))))
    await world.run()
    assert (world.drawn, sorted(world.judged)) == ([], ["1", "2"])


async def test_another_image_model_draws_and_is_judged_again(world: World) -> None:
    await world.run()
    world.image_model = FakeImageModel(world.store)
    world.image_model.name = "other"  # type: ignore[misc]
    await world.run()
    assert (len(world.drawn), len(world.judged)) == (5, 5)


async def test_the_same_picture_from_another_image_model_is_not_judged_again(world: World) -> None:
    def paint(request: Any) -> bytes:
        return png_bytes()

    world.image_model = FakeImageModel(world.store, paint=paint)
    await world.run()
    world.image_model = FakeImageModel(world.store, paint=paint)
    world.image_model.name = "other"  # type: ignore[misc]
    await world.run()
    assert (len(world.drawn), len(world.judged)) == (5, 0)


@pytest.mark.parametrize("field", ["name", "prompt_sha", "settings"])
async def test_another_judge_rubric_or_number_of_votes_judges_again(
    world: World, field: str
) -> None:
    await world.run()
    setattr(world if field == "settings" else world.judge, field, "other")
    await world.run()
    assert (len(world.drawn), len(world.judged)) == (0, 5)


async def test_an_answer_is_judged_again_only_where_the_grades_are_of_it(tmp_path: Path) -> None:
    for with_text, asked in ((False, 0), (True, 5)):
        world = World(tmp_path / str(with_text), with_text=with_text)
        world.image_model = FakeImageModel(world.store, paint=lambda request: png_bytes())
        await world.run()
        world.agent = EpisodeAgent(
            pool=FakePool(), identity="a", system_prompt="", fallback=True, max_reissues=0
        )
        await world.run()
        assert len(world.judged) == asked


@pytest.mark.parametrize("stage", [AGENT, RENDER, JUDGE])
async def test_a_fault_is_a_failure_of_one_row_and_is_tried_again(world: World, stage: str) -> None:
    script: Mapping[Hashable, int] = {"prompt 2": 1, "2": 1}
    if stage == RENDER:
        world.image_model = FakeImageModel(world.store, fail_times=script)
    if stage == JUDGE:
        world.judge = FakeJudge(fail_times=script)
    if stage == AGENT:
        world.agent = FailsOnce(ordinal=2)
    rows = await world.run()
    stages = {AGENT: Stage.INFRA, RENDER: Stage.RENDER, JUDGE: Stage.JUDGE}
    assert [row.judged is None for row in rows] == [False, False, True, False, False]
    assert rows[2].failure is not None
    assert rows[2].failure.stage is stages[stage]

    rows = await world.run()
    assert all(row.judged for row in rows)
    assert world.judged == ["2"]


class FailsOnce(RawPrompt):
    def __init__(self, *, ordinal: int) -> None:
        self._left = {ordinal}

    async def play(self, task: Task) -> Any:
        if task.ordinal in self._left:
            self._left.remove(task.ordinal)
            return make_failure(Stage.INFRA)
        return await super().play(task)


async def test_a_lost_image_is_a_failure_not_a_score(world: World) -> None:
    await world.run(AGENT, RENDER)

    def grade(task: Task, image: Any) -> ImageVerdict:
        raise KeyError("a bug of the judge's client")

    world.judge = FakeJudge(grade_image=grade)
    rows = await world.run()
    assert {row.failure.error_type for row in rows if row.failure} == {"KeyError"}
    assert len([row for row in rows if row.failure]) == 5


async def test_a_torn_row_is_made_again_and_the_whole_ones_are_kept(world: World) -> None:
    await world.run()
    path = world.folder / "judge.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    lines = whole.decode().splitlines()
    await world.run()
    assert len(world.judged) == 1
    assert world.judged[0] in lines[-1]
    await world.run()
    assert world.judged == []


async def test_no_answer_is_the_agents_fault_and_never_drawn(tmp_path: Path) -> None:
    """In the nano world, as in training: the floor, without a picture."""
    world = World(tmp_path, with_text=True)
    world.agent = silent_agent(fallback=False)
    rows = await world.run()
    assert (world.drawn, world.judged) == ([], [])
    assert {value for row in rows if row.judged for value in row.judged.grades.values()} == {0.0}
    assert all(row.judged and "no answer" in row.judged.rationale for row in rows)


async def test_the_raw_prompt_stands_in_for_a_missing_answer_and_says_so(world: World) -> None:
    world.agent = silent_agent(fallback=True)
    rows = await world.run()
    assert sorted(world.drawn) == [f"prompt {n}" for n in range(5)]
    assert {row.played.fallback for row in rows if row.played} == {"it said nothing"}


def silent_agent(*, fallback: bool) -> EpisodeAgent:
    async def play(task: Task, rollout_id: RolloutId) -> Trajectory:
        return make_trajectory(
            task=task,
            rollout_id=rollout_id,
            answer=AnswerError(reason="it said nothing"),
            stop_reason=StopReason.NO_ANSWER,
        )

    return EpisodeAgent(
        pool=FakePool(play), identity="a", system_prompt="", fallback=fallback, max_reissues=0
    )


async def test_an_episode_of_ours_that_broke_is_issued_again(world: World) -> None:
    attempts: list[int] = []

    async def play(task: Task, rollout_id: RolloutId) -> Failure | None:
        attempts.append(rollout_id.attempt)
        return make_failure(Stage.INFRA) if rollout_id.attempt == 0 else None

    world.agent = EpisodeAgent(
        pool=FakePool(play), identity="a", system_prompt="", fallback=True, max_reissues=1
    )
    rows = await world.run(AGENT)
    assert sorted(attempts) == [0] * 5 + [1] * 5
    assert all(row.played for row in rows)


async def test_an_episode_is_kept_as_messages_and_references(world: World) -> None:
    seen = make_seen_image("bird")
    answer = make_answer(chosen=[seen.ref])

    async def play(task: Task, rollout_id: RolloutId) -> Trajectory:
        return make_trajectory(task=task, rollout_id=rollout_id, images=[seen], answer=answer)

    world.agent = EpisodeAgent(
        pool=FakePool(play), identity="a", system_prompt="Search.", fallback=True, max_reissues=0
    )
    (first, *_) = await world.run(AGENT)
    assert first.played is not None
    (reference,) = first.played.references
    assert (reference.img_id, reference.image) == ("IMG_001", seen.ref)
    roles = [message.role for message in first.played.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert first.played.messages[3].images == (seen.ref,)
    assert first.played.values["tool_calls"] == 1.0
    assert isinstance(first.item, BenchTask)


def test_whatever_decides_a_judges_grades_is_told_of_it() -> None:
    changes: list[dict[str, Any]] = [
        *({}, {"votes": 3}, {"max_side": 64}, {"base_url": "http://a.test/v1"}),
        {"base_url": "http://b.test/v1"},
    ]
    assert len({judge_settings(JudgeConfig(**change)) for change in changes}) == len(changes)
