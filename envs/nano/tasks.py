"""Prompts of the nano world: an endless, seeded stream of `Task` over zero to three hops.

Task number `ordinal` of a split is a pure function of world, seed and ordinal, so a stream resumes
anywhere. Of every ten tasks two name the country, four name a thing of it, three name a thing that
is named after that thing, and one gives every attribute and needs no search. A prompt comes again
only after every other prompt of its sort.
"""

import random
from dataclasses import dataclass, replace
from typing import Final

from core.protocols import ImageStore
from core.records import Task, TaskMeta
from envs.nano.flags import Flag, describe, draw, encode_png, random_flag
from envs.nano.kinds import COUNTRY_CATEGORY, GIVEN_CATEGORY
from envs.nano.names import Split
from envs.nano.world import Country, Thing, World

HOPS: Final = (2, 1, 3, 2, 0, 3, 2, 1, 3, 2)
"""Hops of every ten tasks in a row."""
DIFFICULTY: Final = {0: "none", 1: "easy", 2: "medium", 3: "hard"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quest:
    """What a prompt asks for and how to get there."""

    prompt: str
    category: str
    flag: Flag
    """The right picture, banner included."""
    country: Country | None
    """None when the prompt gives every attribute."""
    thing: Thing | None
    """Where the search starts, when the prompt does not name the country."""

    @property
    def hops(self) -> int:
        if self.country is None:
            return 0
        return 1 if self.thing is None else self.thing.hops


def tasks(
    world: World, split: Split, *, num: int, seed: int, store: ImageStore, first_ordinal: int = 0
) -> tuple[Task, ...]:
    """`num` tasks from `first_ordinal` on; their images are put into `store`."""
    stream = QuestStream(world, split, seed=seed)
    return tuple(
        make_task(stream.quest(ordinal), split=split, ordinal=ordinal, store=store)
        for ordinal in range(first_ordinal, first_ordinal + num)
    )


def make_task(quest: Quest, *, split: Split, ordinal: int, store: ImageStore) -> Task:
    country = quest.country
    reference = None if country is None else store.put(encode_png(draw(country.flag)))
    return Task(
        task_id=f"nano-{split}-{ordinal}",
        ordinal=ordinal,
        prompt=quest.prompt,
        ground_truth=store.put(encode_png(draw(quest.flag))),
        reference=reference,
        meta=TaskMeta(
            category=quest.category,
            difficulty=DIFFICULTY[quest.hops],
            needs_search=country is not None,
            needs_image=country is not None,
            hops=quest.hops,
        ),
    )


class QuestStream:
    """The quests of one split by ordinal."""

    def __init__(self, world: World, split: Split, *, seed: int | str) -> None:
        self._seed = f"{split} {seed}"
        countries = [c for c in world.countries if c.split == split]
        things = [t for t in world.things if t.country.split == split]
        self._by_hops = {1: [_from_country(country) for country in countries]}
        for hops in (2, 3):
            self._by_hops[hops] = [_from_thing(t) for t in things if t.hops == hops]

    def quest(self, ordinal: int) -> Quest:
        block, slot = divmod(ordinal, len(HOPS))
        hops = HOPS[slot]
        if hops == 0:
            return _given(random.Random(f"given {self._seed} {ordinal}"))
        quests = self._by_hops[hops]
        place = block * HOPS.count(hops) + HOPS[:slot].count(hops)
        epoch, index = divmod(place, len(quests))
        order = random.Random(f"order {self._seed} {hops} {epoch}")
        return order.sample(quests, len(quests))[index]


def _given(rng: random.Random) -> Quest:
    flag = random_flag(rng, banner=True)
    return Quest(
        prompt=f"Draw the flag {describe(flag)}.",
        category=GIVEN_CATEGORY,
        flag=flag,
        country=None,
        thing=None,
    )


def _from_country(country: Country) -> Quest:
    return Quest(
        prompt=_prompt(country.name),
        category=COUNTRY_CATEGORY,
        flag=replace(country.flag, banner=country.year),
        country=country,
        thing=None,
    )


def _from_thing(thing: Thing) -> Quest:
    if thing.after is None:
        place = f"the country where the {thing.title} {thing.kind.clause}"
    else:
        other = thing.after.kind
        place = (
            f"the country where the {other.word} {other.clause} "
            f"that the {thing.title} is named after"
        )
    return Quest(
        prompt=_prompt(place),
        category=thing.kind.category,
        flag=replace(thing.country.flag, banner=thing.country.year),
        country=thing.country,
        thing=thing,
    )


def _prompt(place: str) -> str:
    return f"Draw the flag of {place} with its year of founding as the banner."
