"""A scripted agent that plays the nano world, exactly or with stated bad habits.

In: the prompt and the tool replies seen so far, all as the policy sees them. Out: the next turn as
text. It follows the facts from page to page, names what every image shows, and chooses the image
that the page's field colour fits. Exact play is what the base policy is trained on; bad habits
make the start from which reinforcement learning has something to win. Never fails: a fact that no
page gave makes it answer with what it knows.
"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from core.protocols import Generated, GenerateRequest
from core.records import Completion, FinishReason, ImageRef
from envs.chat import IMAGE, ChatFormat
from envs.nano.flags import COLOURS, Picture

GEN_PROMPT: Final = "flag of the first reference image"
FIELD_PIXEL: Final = (5, 6)
"""Row and column that every layout leaves in the field's colour, outside every symbol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one tool call brought: the response's text, and the field colour of every image."""

    text: str
    field_colours: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slips:
    """The mistakes that one episode makes."""

    skip_hop: bool = False
    """Takes the thing's name for the country's."""
    skip_image: bool = False
    """Answers from the text alone."""
    wrong_image: bool = False
    drop_banner: bool = False
    malformed: bool = False
    """Leaves the last brace of the answer away."""


EXACT: Final = Slips()


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How often each mistake is made, in [0, 1]."""

    skip_hop: float = 0.0
    skip_image: float = 0.0
    wrong_image: float = 0.0
    drop_banner: float = 0.0
    malformed: float = 0.0

    def draw(self, rng: random.Random) -> Slips:
        return Slips(**{f.name: rng.random() < getattr(self, f.name) for f in fields(self)})


FAULTLESS: Final = Habits()
SLOPPY: Final = Habits(
    skip_hop=0.2, skip_image=0.4, wrong_image=0.3, drop_banner=0.3, malformed=0.02
)


def next_turn(
    prompt: str, replies: Sequence[Reply], *, slips: Slips = EXACT, rng: random.Random
) -> str:
    """The next turn of an episode; `rng` says which wrong image is taken."""
    given = re.fullmatch(r"Draw the flag (?!of )(.*)\.", prompt)
    if given:
        return _answer("all given", given.group(1), (), slips)
    facts = _facts(replies)
    name, learnt = _follow(_start(prompt), facts)
    if slips.skip_hop and _start(prompt) != name.split()[0]:
        name, learnt = _start(prompt).split()[0], []
    pictures = [reply for reply in replies if reply.field_colours]
    if pictures:
        return _choose(name, facts.get(name, ""), pictures[-1], slips, rng)
    recall = f"so {learnt[-1]} " if learnt else ""
    if slips.skip_hop and " " in _start(prompt):
        return _call(f"see {name}", "image_search", {"query": f"flag of {name}"})
    if name not in facts and len(replies) == len(learnt):
        return _call(f"{recall}find {name}", "search", {"queries": [f"about {name}"]})
    if slips.skip_image and name in facts:
        guess = f"{_field(facts[name])} plain" + _banner(facts[name], slips)
        return _answer(f"{recall}no image", guess, (), slips)
    return _call(f"{recall}see {name}", "image_search", {"query": f"flag of {name}"})


def _start(prompt: str) -> str:
    """Where the search starts: a thing's title, or a country's name."""
    for pattern in (r"that the (\w+ \w+) is named after", r"country where the (\w+ \w+) "):
        found = re.search(pattern, prompt)
        if found:
            return found.group(1)
    found = re.search(r"flag of (\w+)", prompt)
    return found.group(1) if found else ""


def _facts(replies: Sequence[Reply]) -> dict[str, str]:
    """Title -> text of every page line seen."""
    lines = "\n".join(reply.text for reply in replies if not reply.field_colours)
    return dict(re.findall(r"^\[\w+\] ([\w ]+): (.*)$", lines, re.MULTILINE))


def _follow(start: str, facts: Mapping[str, str]) -> tuple[str, list[str]]:
    """The last title that the known facts lead to, and the facts on the way to it."""
    title, learnt = start, []
    while title in facts:
        learnt.append(f"{title}: {facts[title]}")
        link = re.search(r"named after (\w+ \w+)\.|in (\w+)\.", facts[title])
        if link is None:
            break
        title = link.group(1) or link.group(2)
    return title, learnt


def _choose(name: str, fact: str, pictures: Reply, slips: Slips, rng: random.Random) -> str:
    """Name what every image shows, then take the one that fits the country and its field."""
    captions = re.findall(r"^(IMG_\d+): .*?flag of (\w+)", pictures.text, re.MULTILINE)
    seen = [
        (image_id, f"{shown} {colour}")
        for (image_id, shown), colour in zip(captions, pictures.field_colours, strict=True)
    ]
    fitting = [entry for entry in seen if entry[1] == f"{name} {_field(fact)}"]
    others = [entry for entry in seen if entry not in fitting]
    wrong = not fitting or (slips.wrong_image and others)
    image_id, looks = rng.choice(others) if wrong else fitting[0]
    listed = " ".join(f"{entry_id} {entry} {entry_id}" for entry_id, entry in seen)
    reference = {"img_id": image_id, "note": f"flag of {looks.split()[0]}"}
    return _answer(
        f"{listed} use {looks} {image_id}", GEN_PROMPT + _banner(fact, slips), (reference,), slips
    )


def _call(thought: str, tool: str, arguments: Mapping[str, object]) -> str:
    call = json.dumps({"name": tool, "arguments": arguments})
    return f"<think>{thought}</think><tool_call>{call}</tool_call>"


def _answer(
    thought: str, gen_prompt: str, references: Sequence[Mapping[str, str]], slips: Slips
) -> str:
    answer = json.dumps({"gen_prompt": gen_prompt, "reference_images": list(references)})
    if slips.malformed:
        answer = answer[:-1]
    return f"<think>{thought}</think><answer>{answer}</answer>"


def _field(fact: str) -> str:
    found = re.search(r"field (\w+)", fact)
    return found.group(1) if found else "white"


def _banner(fact: str, slips: Slips) -> str:
    found = re.search(r"founded (\d\d)", fact)
    return f" banner {found.group(1)}" if found and not slips.drop_banner else ""


class TeacherPolicy:
    """The teacher behind core.protocols.Policy: it reads tokens and writes tokens.

    `field_colour` tells what an image shows; mistakes are drawn per rollout from `seed`.
    """

    def __init__(
        self,
        chat: ChatFormat,
        *,
        field_colour: Callable[[ImageRef], str],
        habits: Habits = FAULTLESS,
        seed: int = 0,
    ) -> None:
        self._chat = chat
        self._field_colour = field_colour
        self._habits = habits
        self._seed = seed

    async def generate(self, request: GenerateRequest) -> Generated:
        prompt, *answers = _user_turns(self._chat.decode(request.engine_ids))
        colours = iter([self._field_colour(image.ref) for image in request.images])
        replies = [
            Reply(
                text=answer,
                field_colours=tuple(next(colours) for _ in range(answer.count(IMAGE))),
            )
            for answer in answers
        ]
        habits = random.Random(f"{self._seed} {request.rollout_id}")
        turn = random.Random(f"{self._seed} {request.rollout_id} {len(replies)}")
        text = next_turn(prompt, replies, slips=self._habits.draw(habits), rng=turn)
        token_ids = (*self._chat.encode_trusted(text), self._chat.stop_id)[: request.max_tokens]
        is_whole = token_ids[-1] == self._chat.stop_id
        return Generated(
            prompt_ids=tuple(self._chat.expand(request.engine_ids, request.images)),
            completion=Completion(
                token_ids=token_ids,
                logprobs=(0.0,) * len(token_ids),
                finish_reason=FinishReason.STOP if is_whole else FinishReason.LENGTH,
                sampling=request.sampling,
                policy_versions=((0, 0, len(token_ids)),),
            ),
        )


def field_colour_of(picture: Picture) -> str:
    """The field colour of a drawn flag, read from its pixels."""
    pixel = picture[FIELD_PIXEL].astype(int)
    return min(COLOURS, key=lambda name: int(np.abs(pixel - COLOURS[name]).sum()))


def _user_turns(context: str) -> list[str]:
    """The prompt, then the text of every tool response."""
    turns = re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", context, re.DOTALL)
    return [
        re.sub(r"^<tool_response>\n|\n</tool_response>.*$", "", t, flags=re.DOTALL) for t in turns
    ]
