"""Tasks: a resumable stream with the stated mix, over disjoint names."""

import re
from collections import Counter

from envs.images import FileImageStore
from envs.nano.flags import draw, encode_png
from envs.nano.names import names
from envs.nano.tasks import QuestStream, tasks
from envs.nano.world import World


def test_stream_resumes_anywhere(tmp_path) -> None:
    world, store = World(), FileImageStore(tmp_path)
    whole = tasks(world, "train", num=30, seed=5, store=store)
    rest = tasks(world, "train", num=10, seed=5, store=store, first_ordinal=20)
    assert whole[20:] == rest
    assert whole != tasks(world, "train", num=30, seed=6, store=store)


def test_256_held_out_tasks_are_distinct_and_disjoint_from_training() -> None:
    world = World()
    held_out = [QuestStream(world, "heldout", seed=0).quest(n).prompt for n in range(256)]
    train = [QuestStream(world, "train", seed=0).quest(n).prompt for n in range(1000)]
    assert len(set(held_out)) == 256

    def named(prompts: list[str]) -> set[str]:
        return {word for p in prompts for word in re.findall(r"[A-Z][a-z]+", p)} - {"Draw"}

    assert named(held_out) <= set(names("heldout"))
    assert named(train) <= set(names("train"))


def test_mix_of_hops_and_categories() -> None:
    stream = QuestStream(World(), "train", seed=0)
    quests = [stream.quest(ordinal) for ordinal in range(500)]
    assert Counter(quest.hops for quest in quests) == {0: 50, 1: 100, 2: 200, 3: 150}
    assert len({quest.category for quest in quests}) == 21


def test_images_of_a_task(tmp_path) -> None:
    world, store = World(), FileImageStore(tmp_path)
    stream = QuestStream(world, "train", seed=0)
    for task in tasks(world, "train", num=10, seed=0, store=store):
        quest = stream.quest(task.ordinal)
        assert task.ground_truth is not None
        assert store.get(task.ground_truth) == encode_png(draw(quest.flag))
        assert quest.flag.banner is not None
        assert task.meta.hops == quest.hops
        assert task.meta.needs_search == task.meta.needs_image == (task.reference is not None)
        if quest.country is not None:
            assert store.get(task.reference) == encode_png(draw(quest.country.flag))
