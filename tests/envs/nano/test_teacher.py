"""The teacher solves every task through the one episode loop; its bad habits show."""

import random
from pathlib import Path

import numpy as np
import pytest

from cluster.nano.tokenizer import SYSTEM_PROMPT, save_processor
from core.records import Answer, ImageRef, RolloutId, StopReason, Task, Trajectory
from envs.chat import ChatFormat
from envs.corpus import Corpus, build_corpus
from envs.episode import EpisodeLimits, run_episode
from envs.images import FileImageStore, decode_rgb
from envs.nano.flags import LAYOUT_MASKS, SYMBOL_MASKS, draw, random_flag
from envs.nano.tasks import QuestStream, tasks
from envs.nano.teacher import (
    FAULTLESS,
    FIELD_PIXEL,
    SLOPPY,
    Habits,
    TeacherPolicy,
    field_colour_of,
)
from envs.nano.world import World
from envs.store.library import Library
from envs.store.store import Store
from envs.toolbox import LocalToolbox
from envs.tools import ImageSearchTool, SearchTool

LIMITS = EpisodeLimits(
    max_turns=8, max_tokens_per_turn=256, max_context=2048, max_images_per_search=3
)


class Theatre:
    """A small world with its real search backend."""

    def __init__(self, folder: Path) -> None:
        save_processor(folder / "policy")
        self.chat = ChatFormat.load(folder / "policy")
        self.world = World(seed=1, num_train=24, num_heldout=24)
        self.store = FileImageStore(folder / "images")
        path = folder / "corpus.sqlite"
        build_corpus(path, pages=self.world.pages(), images=self.world.images(), store=self.store)
        corpus = Corpus(path)
        library = Library(Store(folder / "store"), run_images=self.store)
        search, images = library.search(corpus), library.image_search(corpus)
        self.tools = LocalToolbox(
            [SearchTool(search, top_k=3), ImageSearchTool(images, top_k=3)], library
        )

    def tasks(self, num: int) -> tuple[Task, ...]:
        return tasks(self.world, "heldout", num=num, seed=0, store=self.store)

    def field_colour(self, ref: ImageRef) -> str:
        return field_colour_of(np.asarray(decode_rgb(self.store.get(ref))))

    async def play(self, task: Task, habits: Habits) -> Trajectory:
        return await run_episode(
            task,
            rollout_id=RolloutId(ordinal=task.ordinal, index=0),
            policy=TeacherPolicy(self.chat, field_colour=self.field_colour, habits=habits),
            toolbox=self.tools,
            images=self.store,
            chat=self.chat,
            system_prompt=SYSTEM_PROMPT,
            limits=LIMITS,
            temperature=1.0,
            top_p=1.0,
            seed=0,
        )


@pytest.fixture(scope="module")
def theatre(tmp_path_factory) -> Theatre:
    return Theatre(tmp_path_factory.mktemp("theatre"))


async def test_exact_teacher_solves_every_task(theatre: Theatre) -> None:
    for task in theatre.tasks(30):
        trajectory = await theatre.play(task, FAULTLESS)
        answer = trajectory.answer
        assert isinstance(answer, Answer), (task.prompt, answer)
        assert answer.chosen == ((task.reference,) if task.reference else ())
        year = _year_of(theatre, task)
        assert answer.gen_prompt.endswith(f"banner {year}")
        assert len(trajectory.turns) == (task.meta.hops + 2 if task.meta.hops else 1)
        assert not any(turn.repairs for turn in trajectory.turns)


async def test_bad_habits_do_what_they_say(theatre: Theatre) -> None:
    for task in theatre.tasks(10):
        if task.meta.hops < 2:
            continue
        text_only = await theatre.play(task, Habits(skip_image=1.0))
        assert isinstance(text_only.answer, Answer)
        assert text_only.answer.chosen == ()
        wrong = await theatre.play(task, Habits(wrong_image=1.0))
        assert isinstance(wrong.answer, Answer)
        assert wrong.answer.chosen != (task.reference,)
        bare = await theatre.play(task, Habits(drop_banner=1.0))
        assert isinstance(bare.answer, Answer)
        assert "banner" not in bare.answer.gen_prompt
        hasty = await theatre.play(task, Habits(skip_hop=1.0))
        assert len(hasty.turns) == 2
        assert isinstance(hasty.answer, Answer)
        assert hasty.answer.chosen != (task.reference,)


async def test_malformed_answers_end_badly_or_are_repaired(theatre: Theatre) -> None:
    trajectory = await theatre.play(theatre.tasks(1)[0], Habits(malformed=1.0))
    repaired = any(turn.repairs for turn in trajectory.turns)
    assert repaired or trajectory.stop_reason is StopReason.BAD_ANSWER


async def test_equal_seeds_make_equal_mistakes(theatre: Theatre) -> None:
    task = theatre.tasks(1)[0]
    first, second = [await theatre.play(task, SLOPPY) for _ in range(2)]
    assert [turn.text for turn in first.turns] == [turn.text for turn in second.turns]


def test_field_colour_is_read_from_pixels() -> None:
    assert not any(mask[FIELD_PIXEL] for mask in (*LAYOUT_MASKS.values(), *SYMBOL_MASKS.values()))
    rng = random.Random(0)
    for flag in [random_flag(rng) for _ in range(100)]:
        assert field_colour_of(draw(flag)) == flag.field


def _year_of(theatre: Theatre, task: Task) -> str:
    stream = QuestStream(theatre.world, "heldout", seed=0)
    year = stream.quest(task.ordinal).flag.banner
    assert year is not None
    return year
