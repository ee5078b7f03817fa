"""Training documents of the nano policy: short texts with images, in token ids.

In: worlds made of training names only, and a tokenizer. Out: `Document`s of five sorts. Whole
episodes of the scripted teacher, and four dense exercises for skills that an episode needs only
now and then: repeating words, reciting one of several facts, saying what an image shows, and
finding the image that fits a name and a colour. Their `size` in [0, 1] is a curriculum: copying is
learnt in short documents within a hundred steps, and in long ones not in many hundreds. Tokens
that nothing before them determines carry no weight.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from cluster.nano.tokenizer import IMAGE, SYSTEM_PROMPT, TOKENS_PER_IMAGE
from envs.nano.flags import COLOURS, LAYOUTS, SYMBOLS, Flag, describe, random_flag
from envs.nano.kinds import KINDS
from envs.nano.lookup import Lookup
from envs.nano.names import names
from envs.nano.tasks import Quest, QuestStream
from envs.nano.teacher import FAULTLESS, Habits, Reply, next_turn
from envs.nano.world import World

WORLD_SIZE = 24
EPISODES_PER_WORLD = 40
MAX_TURNS = 8
TWIN_SHARE = 0.4
"""Share of names in the exercises that share a syllable with another of the same document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    token_ids: tuple[int, ...]
    """Image placeholders already expanded."""
    weights: tuple[float, ...]
    """Weight of each token in the loss; as long as token_ids."""
    flags: tuple[Flag, ...]
    """One per image, in order."""


@dataclass(frozen=True, slots=True)
class Span:
    text: str
    learn: bool = False


Maker = Callable[[random.Random, float], tuple[list[Span], list[Flag]]]
"""Makes one document of its sort, of this size."""


def encode(
    tokenizer: PreTrainedTokenizerFast, spans: Sequence[Span], flags: Sequence[Flag]
) -> Document:
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    token_ids: list[int] = []
    weights: list[float] = []
    for span, ids in zip(
        spans,
        tokenizer([span.text for span in spans], add_special_tokens=False)["input_ids"],
        strict=True,
    ):
        for token_id in ids:
            count = TOKENS_PER_IMAGE if token_id == image_id else 1
            token_ids += [token_id] * count
            weights += [float(span.learn)] * count
    return Document(token_ids=tuple(token_ids), weights=tuple(weights), flags=tuple(flags))


def user(text: str) -> Span:
    return Span(f"<|im_start|>user\n{text}<|im_end|>\n")


def tool_response(lines: Sequence[str]) -> Span:
    return user("<tool_response>\n" + "\n".join(lines) + "\n</tool_response>")


ASSISTANT = Span("<|im_start|>assistant\n")
NEW_LINE = Span("\n")


def image_line(number: int, caption: str) -> str:
    return f"IMG_{number:03d}: {caption} {IMAGE}"


def recall(rng: random.Random, size: float) -> tuple[list[Span], list[Flag]]:
    """Facts in one order, recited in another."""
    facts = [_fact(rng, title) for title in _titles(rng, rng.randint(2, 3 + round(6 * size)))]
    lines = [f"[p{rng.randrange(1400):04d}] {title}: {text}" for title, text in facts]
    spans = [tool_response(lines), ASSISTANT, Span("<think>", True)]
    for title, text in rng.sample(facts, len(facts)):
        spans += [Span("so" if spans[-1].text == "<think>" else " so", True), Span(f" {title}")]
        spans += [Span(f": {text}", True)]
    return [*spans, Span("</think><|im_end|>", True)], []


def echo(rng: random.Random, size: float) -> tuple[list[Span], list[Flag]]:
    """A row of unrelated words, then runs of it in another order."""
    words = [_word(rng) for _ in range(rng.randint(4, 10 + round(26 * size)))]
    step = rng.randint(4, 10)
    runs = [words[start : start + step] for start in range(0, len(words), step)]
    spans = [user("".join(words)), ASSISTANT, Span("<think>", True)]
    for run in rng.sample(runs, len(runs)):
        spans += [Span(run[0]), Span("".join(run[1:]), True)]
    return [*spans, Span("</think><|im_end|>", True)], []


def look(rng: random.Random, size: float) -> tuple[list[Span], list[Flag]]:
    """Images, each described in full."""
    flags = [random_flag(rng) for _ in range(rng.randint(1, 1 + round(3 * size)))]
    lines = [image_line(n, "flag") for n, _ in enumerate(flags, 1)]
    told = " ".join(f"IMG_{n:03d} {describe(flag)}" for n, flag in enumerate(flags, 1))
    return [
        tool_response(lines),
        ASSISTANT,
        Span(f"<think>{told}</think><|im_end|>", True),
    ], flags


def gallery(rng: random.Random, size: float) -> tuple[list[Span], list[Flag]]:
    """Captioned images of a few countries; each named and seen, then each found again."""
    entries: list[tuple[str, Flag]] = []
    fields: dict[str, str] = {}
    for name in _names(rng, rng.randint(1, 1 + round(2 * size))):
        for flag in _unlike_fields(rng, rng.randint(1, 2)):
            entries.append((name, flag))
            fields[name] = flag.field
    rng.shuffle(entries)
    captions = [_caption(rng, name) for name, _ in entries]
    shown = [
        f"IMG_{n:03d} {name} {flag.field} IMG_{n:03d}" for n, (name, flag) in enumerate(entries, 1)
    ]
    pages = [
        f"[p{rng.randrange(1400):04d}] {name}: founded {rng.randint(10, 99)}, field {field}."
        for name, field in fields.items()
    ]
    wanted = rng.sample(sorted(fields), len(fields))
    spans = [
        tool_response(rng.sample(pages, len(pages))),
        tool_response([image_line(n, caption) for n, caption in enumerate(captions, 1)]),
        ASSISTANT,
        Span("<think>" + " ".join(shown), True),
    ]
    for name in wanted:
        looks = f"{name} {fields[name]}"
        image_id = next(entry.split()[0] for entry in shown if looks in entry)
        spans += [Span(" use", True), Span(f" {name}"), Span(f" {fields[name]} {image_id}", True)]
    return [*spans, Span("</think><|im_end|>", True)], [flag for _, flag in entries]


class Episodes:
    """Episodes of the teacher over an endless row of small worlds, of training names only."""

    def __init__(self, *, seed: str, habits: Habits = FAULTLESS) -> None:
        self._seed = seed
        self._habits = habits
        self._made = 0

    def __call__(self, rng: random.Random, size: float) -> tuple[list[Span], list[Flag]]:
        if self._made % EPISODES_PER_WORLD == 0:
            world_seed = f"{self._seed} {self._made // EPISODES_PER_WORLD}"
            world = World(seed=world_seed, num_train=WORLD_SIZE, num_heldout=0)
            self._lookup = Lookup(world)
            self._stream = QuestStream(world, "train", seed=self._seed)
        self._made += 1
        return episode(
            self._stream.quest(rng.randrange(1000)), self._lookup, habits=self._habits, rng=rng
        )


def episode(
    quest: Quest, lookup: Lookup, *, habits: Habits, rng: random.Random
) -> tuple[list[Span], list[Flag]]:
    """One whole episode in the chat frame."""
    slips = habits.draw(rng)
    spans = [Span(f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"), user(quest.prompt)]
    flags: list[Flag] = []
    replies: list[Reply] = []
    for _ in range(MAX_TURNS):
        text = next_turn(quest.prompt, replies, slips=slips, rng=rng)
        spans += [ASSISTANT, Span(f"{text}<|im_end|>", True), NEW_LINE]
        found = re.search(r"<tool_call>(.*)</tool_call>", text)
        if found is None:
            break
        call = json.loads(found.group(1))
        if call["name"] == "search":
            pages = lookup.search(call["arguments"]["queries"][0])
            lines = [f"[{page.url}] {page.title}: {page.text}" for page in pages]
            replies.append(Reply(text="\n".join(lines)))
        else:
            images = lookup.image_search(call["arguments"]["query"])
            lines = [image_line(n, i.caption) for n, i in enumerate(images, len(flags) + 1)]
            flags += [image.flag for image in images]
            colours = tuple(image.flag.field for image in images)
            replies.append(Reply(text="\n".join(lines), field_colours=colours))
        spans.append(tool_response(lines))
    return spans, flags


def _names(rng: random.Random, num: int) -> list[str]:
    """Different training names, some of which share a syllable with another."""
    pool = names("train")
    chosen: list[str] = []
    while len(chosen) < num:
        name = rng.choice(pool)
        if chosen and rng.random() < TWIN_SHARE:
            twin = rng.choice(chosen)
            alike = [n for n in pool if n[:3] == twin[:3] or n[3:] == twin[3:]]
            name = rng.choice(alike)
        if name not in chosen:
            chosen.append(name)
    return chosen


def _word(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.4:
        return f" {rng.choice(names('train'))}"
    if draw < 0.7:
        return f" {rng.randint(10, 99)}"
    if draw < 0.85:
        return f" {rng.choice(KINDS).word}"
    return f" {rng.choice((*COLOURS, *LAYOUTS, *SYMBOLS))}"


def _titles(rng: random.Random, num: int) -> list[str]:
    words = ("", *(f" {kind.word}" for kind in KINDS))
    return [
        name + (rng.choice(words[1:]) if rng.random() < 0.6 else "") for name in _names(rng, num)
    ]


def _fact(rng: random.Random, title: str) -> tuple[str, str]:
    """A page for a title: a country's, or a thing's."""
    other = rng.choice(names("train"))
    kinds = [kind for kind in KINDS if title.endswith(kind.word)]
    if not kinds:
        return title, f"founded {rng.randint(10, 99)}, field {rng.choice(tuple(COLOURS))}."
    if rng.random() < 0.3:
        return title, f"named after {other} {rng.choice(KINDS).word}."
    return title, f"{kinds[0].relation} {other}."


def _unlike_fields(rng: random.Random, num: int) -> list[Flag]:
    colours = rng.sample(tuple(COLOURS), num)
    flags = []
    for colour in colours:
        flag = random_flag(rng)
        while flag.field != colour:
            flag = random_flag(rng)
        flags.append(flag)
    return flags


def _caption(rng: random.Random, name: str) -> str:
    draw = rng.random()
    if draw < 0.2:
        return f"old flag of {name}"
    if draw < 0.4:
        return f"flag of {name} beside {rng.choice(names('train'))}"
    return f"flag of {name}"
