import random
from dataclasses import replace

import numpy as np
import pytest

from cluster.nano.judge import nano_judge, nano_tables
from core.errors import JudgeError
from core.protocols import ImageVerdict
from core.records import ImageRef
from envs.nano.flags import Flag, Picture, draw, encode_png, random_flag
from rewards.flag_reader import FlagReader
from tests.builders import make_answer, make_task, png_bytes
from tests.fakes.images import MemoryImageStore

TRUTH = Flag(
    layout="halves",
    field="red",
    second="white",
    symbol="star",
    symbol_colour="blue",
    banner="47",
)
PLAIN = replace(TRUTH, layout="plain", second=None)


def noisy(flag: Flag, *, sd: float, seed: int = 0) -> Picture:
    noise = np.random.default_rng(seed).normal(0, sd, (32, 32, 3))
    return (draw(flag) + noise).clip(0, 255).astype(np.uint8)


async def verdict(seen: Flag | Picture | bytes, *, truth: Flag = TRUTH) -> ImageVerdict:
    store = MemoryImageStore()
    data = seen if isinstance(seen, bytes) else _encode(seen)
    task = make_task(ground_truth=store.put(_encode(truth)))
    return await nano_judge(store=store).judge_image(task=task, image=store.put(data))


def _encode(picture: Flag | Picture) -> bytes:
    return encode_png(draw(picture) if isinstance(picture, Flag) else picture)


def dimensions(found: ImageVerdict) -> tuple[float, float, float | None, float]:
    return (
        found.faithfulness,
        found.visual_correctness,
        found.text_accuracy,
        found.aesthetics,
    )


@pytest.mark.parametrize("sd", [0, 8, 25, 40])
def test_reader_reads_back_what_was_drawn_even_through_noise(sd: float) -> None:
    reader = FlagReader(nano_tables())
    rng = random.Random(7)
    for number in range(60):
        flag = random_flag(rng, banner=number % 2 == 0)
        reading = reader.read(encode_png(noisy(flag, sd=sd, seed=number)))
        found = Flag(
            layout=reading.layout,
            field=reading.field,
            second=reading.second,
            symbol=str(reading.symbol),
            symbol_colour=str(reading.symbol_colour),
            banner=reading.banner,
        )
        assert found == flag


def test_reader_scales_other_sizes_down() -> None:
    large = draw(TRUTH).repeat(8, axis=0).repeat(8, axis=1)
    assert FlagReader(nano_tables()).read(encode_png(large)).banner == "47"


async def test_a_perfect_picture_earns_everything() -> None:
    found = await verdict(TRUTH)
    assert dimensions(found) == (1, 1, 1, 1)
    assert found.rationale == (
        "Layout, colours and symbol equal the truth. The banner reads 47, as it should."
    )


@pytest.mark.parametrize(
    ("change", "visual", "text"),
    [
        ({"symbol": "circle"}, 0.5, 1),  # 4 of 5 attributes
        ({"symbol": "circle", "symbol_colour": "green"}, 0.5, 1),  # 3 of 5
        ({"symbol": "circle", "symbol_colour": "green", "field": "cyan"}, 0, 1),  # 2 of 5
        ({"banner": "46"}, 1, 0.5),
        ({"banner": "17"}, 1, 0.5),
        ({"banner": "74"}, 1, 0),
    ],
)
async def test_every_wrong_attribute_costs_its_dimension(
    change: dict[str, str], visual: float, text: float
) -> None:
    found = await verdict(replace(TRUTH, **change))
    assert dimensions(found) == (1, visual, text, 1)


async def test_a_missing_banner_costs_text_and_half_of_faithfulness() -> None:
    found = await verdict(replace(TRUTH, banner=None))
    assert dimensions(found) == (0.5, 1, 0, 1)
    assert "banner: 47 expected, no banner seen." in found.rationale


async def test_a_truth_without_a_banner_has_no_text_to_judge() -> None:
    truth = replace(TRUTH, banner=None)
    assert dimensions(await verdict(truth, truth=truth)) == (1, 1, None, 1)
    assert dimensions(await verdict(TRUTH, truth=truth)) == (0.5, 1, None, 1)


async def test_the_second_colour_of_a_plain_flag_does_not_count() -> None:
    assert dimensions(await verdict(PLAIN, truth=PLAIN)) == (1, 1, 1, 1)
    changed = replace(PLAIN, symbol="ring", symbol_colour="green")  # 2 of 4
    assert (await verdict(changed, truth=PLAIN)).visual_correctness == 0


async def test_the_rationale_says_what_was_expected_and_what_was_seen() -> None:
    found = await verdict(replace(TRUTH, symbol="circle", symbol_colour="green", banner="41"))
    assert found.rationale == (
        "symbol: star expected, circle seen. symbol colour: blue expected, green seen. "
        "banner: 47 expected, 41 seen."
    )


@pytest.mark.parametrize(("sd", "aesthetics"), [(0, 1), (5, 1), (15, 0.5), (40, 0)])
async def test_noise_costs_aesthetics_before_anything_else(sd: float, aesthetics: float) -> None:
    found = await verdict(noisy(TRUTH, sd=sd))
    assert found.aesthetics == aesthetics
    assert (found.visual_correctness, found.text_accuracy) == (1, 1)


async def test_an_empty_picture_is_no_flag_with_a_symbol() -> None:
    found = await verdict(png_bytes((20, 20, 20)))
    assert dimensions(found) == (0, 0, 0, 1)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    assert (await verdict(noise)).faithfulness == 0


async def text_value(prompt: str, *chosen: Flag, truth: Flag = TRUTH) -> float:
    store = MemoryImageStore()
    refs: list[ImageRef] = [store.put(_encode(flag)) for flag in chosen]
    task = make_task(ground_truth=store.put(_encode(truth)))
    answer = make_answer(gen_prompt=prompt, chosen=refs)
    return (await nano_judge(store=store).judge_text(task=task, answer=answer)).value


RIGHT = replace(TRUTH, banner=None)
OTHER = Flag(
    layout="border",
    field="cyan",
    second="black",
    symbol="ring",
    symbol_colour="green",
    banner=None,
)


@pytest.mark.parametrize(
    ("prompt", "chosen", "value"),
    [
        ("red white halves blue star banner 47", (), 1),
        ("first reference image banner 47", (RIGHT,), 1),
        ("banner 47", (RIGHT, OTHER), 1),
        ("second reference image banner 47", (OTHER, RIGHT), 1),
        ("banner 47", (OTHER, RIGHT), 0.5),  # the first reference holds
        ("banner 47", (), 0.5),
        ("banner 46", (RIGHT,), 0.5),
        ("", (RIGHT,), 0.5),
        ("", (), 0),
        ("", (OTHER,), 0),
        ("circle banner 47", (RIGHT,), 0.75),  # (4/5 + 1) / 2 = 0.9
        ("blue star", (), 0),  # 2/5 / 2 = 0.2
        ("red white halves", (), 0.25),  # 3/5 / 2 = 0.3
        ("red white halves blue star", (OTHER,), 0.5),  # words override the reference
    ],
)
async def test_text_value_by_what_prompt_and_reference_cover(
    prompt: str, chosen: tuple[Flag, ...], value: float
) -> None:
    assert await text_value(prompt, *chosen) == value


async def test_text_value_without_a_banner_rests_on_the_flag_alone() -> None:
    assert await text_value("", RIGHT, truth=RIGHT) == 1
    assert await text_value("blue star", truth=RIGHT) == 0.25  # 2/5


async def test_text_rationale_names_what_is_missing() -> None:
    store = MemoryImageStore()
    task = make_task(ground_truth=store.put(_encode(TRUTH)))
    answer = make_answer(gen_prompt="red white halves green star")
    found = await nano_judge(store=store).judge_text(task=task, answer=answer)
    assert found.rationale == (
        "symbol colour: blue needed, green offered. banner: 47 needed, nothing said."
    )


async def test_a_task_without_a_usable_truth_is_our_failure() -> None:
    store = MemoryImageStore()
    judge = nano_judge(store=store)
    image = store.put(_encode(TRUTH))
    with pytest.raises(JudgeError, match="has no ground truth"):
        await judge.judge_image(task=make_task(ground_truth=None), image=image)
    blank = store.put(png_bytes((245, 245, 245)))
    with pytest.raises(JudgeError, match="not a flag"):
        await judge.judge_image(task=make_task(ground_truth=blank), image=image)
