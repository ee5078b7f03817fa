"""A judge that measures pixels: it reads a flag's attributes back from pictures, without a model.

In: the task's ground truth, the rendered image or the answer, and drawing tables that are handed
in. Out: the same verdicts as any judge gives, with sentences for people. Raises `JudgeError` when
the task has no ground truth or its picture shows no flag.

K-Score dimensions (arXiv 2603.28767, section 4.2), each in {0, 0.5, 1}:

faithfulness        is it the kind of picture that was asked for: a flag whose layout is legible
                    (mean distance of its pixels to a redrawing of what was read <= 40), a symbol on
                    it, and two digits below exactly if the truth has them. All three: 1. A legible
                    flag without one of the other two: 0.5. Else 0.
visual_correctness  share of layout, field, second colour (not for a plain flag), symbol and its
                    colour that equal the truth: all 1; at least 0.6: 0.5; less: 0.
text_accuracy       digits of the banner that equal the truth: two 1, one 0.5, none 0; None if the
                    truth has no banner.
aesthetics          cleanness: mean distance of all pixels to the nearest colour of the palette
                    <= 12: 1; <= 30: 0.5; more: 0.

Distances are those of rewards/flag_reader.py: Euclidean in RGB, 0..255.
"""

import time
from collections.abc import Iterator
from typing import Final

from core.errors import JudgeError
from core.protocols import ImageStore, ImageVerdict, TextVerdict, Took
from core.records import Answer, ImageRef, Task
from rewards.flag_reader import DrawingTables, FlagReader, Reading

LEGIBLE: Final = 40.0
CLEAN: Final = 12.0
TOLERABLE: Final = 30.0
MOSTLY_RIGHT: Final = 0.6
VISUAL: Final = ("layout", "field", "second", "symbol", "symbol_colour")
_LABELS: Final = {"second": "second colour", "symbol_colour": "symbol colour"}


class PixelJudge:
    """Implements core.protocols.Judge for worlds that are drawn from tables."""

    name = "pixels"
    prompt_sha = ""

    def __init__(self, tables: DrawingTables, *, store: ImageStore) -> None:
        self._tables = tables
        self._reader = FlagReader(tables)
        self._store = store

    async def judge_image(self, *, task: Task, image: ImageRef) -> ImageVerdict:
        """The four dimensions that the module's docstring defines."""
        started = time.perf_counter()
        truth, seen = self._truth(task), self._read(image)
        return ImageVerdict(
            faithfulness=_faithfulness(seen, truth),
            visual_correctness=_visual_correctness(seen, truth),
            text_accuracy=_text_accuracy(seen, truth),
            aesthetics=_aesthetics(seen),
            rationale=" ".join(_image_sentences(seen, truth)),
            took=Took(seconds=time.perf_counter() - started),
        )

    async def spent_usd(self) -> float:
        return 0.0

    async def judge_text(self, *, task: Task, answer: Answer) -> TextVerdict:
        """Would the answer do: half for what stands in images, half for the banner's year.

        An attribute is covered when the prompt names its true value, or when it names none and
        the reference that the prompt points at (the first one by default) shows it. A wrong word
        or a wrong reference therefore spoils it. Rounded down to a quarter.
        """
        started = time.perf_counter()
        truth = self._truth(task)
        said = self._tables.parse_prompt(answer.gen_prompt)
        shown = self._shown(answer)
        offered = {name: getattr(said, name) or getattr(shown, name, None) for name in VISUAL}
        wanted = _visual_attributes(truth)
        covered = [name for name in wanted if offered[name] == wanted[name]]
        value = len(covered) / len(wanted)
        sentences = [
            f"{_label(name)}: {wanted[name]} needed, {offered[name] or 'nothing'} offered."
            for name in wanted
            if name not in covered
        ]
        if truth.banner is not None:
            value = (value + (said.banner == truth.banner)) / 2
            if said.banner != truth.banner:
                sentences.append(f"banner: {truth.banner} needed, {said.banner or 'nothing'} said.")
        return TextVerdict(
            value=int(value * 4 + 1e-9) / 4,
            rationale=" ".join(sentences) or "The prompt and the reference cover every attribute.",
            took=Took(seconds=time.perf_counter() - started),
        )

    def _truth(self, task: Task) -> Reading:
        if task.ground_truth is None:
            raise JudgeError(
                f"task {task.task_id} has no ground truth, which the pixel judge needs",
                retryable=False,
            )
        truth = self._read(task.ground_truth)
        if truth.symbol is None or truth.residual > LEGIBLE:
            raise JudgeError(
                f"the ground truth of task {task.task_id} is not a flag of the drawing tables",
                retryable=False,
            )
        return truth

    def _read(self, ref: ImageRef) -> Reading:
        try:
            return self._reader.read(self._store.get(ref))
        except ValueError as error:
            raise JudgeError(f"image {ref.sha256[:12]}: {error}", retryable=False) from error

    def _shown(self, answer: Answer) -> Reading | None:
        """What the reference shows that the prompt points at; None without references."""
        if not answer.chosen:
            return None
        index = self._tables.named_reference(answer.gen_prompt, num_references=len(answer.chosen))
        return self._read(answer.chosen[index])


def _visual_attributes(truth: Reading) -> dict[str, str | None]:
    """The attributes that count: all visual ones, less the second colour of a plain flag."""
    values = {name: getattr(truth, name) for name in VISUAL}
    return {name: value for name, value in values.items() if value is not None}


def _faithfulness(seen: Reading, truth: Reading) -> float:
    legible = seen.residual <= LEGIBLE
    present = (seen.symbol is not None, _num_digits(seen) == _num_digits(truth))
    return 1.0 if legible and all(present) else 0.5 if legible and any(present) else 0.0


def _visual_correctness(seen: Reading, truth: Reading) -> float:
    wanted = _visual_attributes(truth)
    share = sum(getattr(seen, name) == value for name, value in wanted.items()) / len(wanted)
    return 1.0 if share == 1 else 0.5 if share >= MOSTLY_RIGHT else 0.0


def _text_accuracy(seen: Reading, truth: Reading) -> float | None:
    if truth.banner is None:
        return None
    pairs = zip(seen.digits, truth.digits, strict=True)
    return sum(read == wanted for read, wanted in pairs) / len(truth.digits)


def _aesthetics(seen: Reading) -> float:
    return 1.0 if seen.impurity <= CLEAN else 0.5 if seen.impurity <= TOLERABLE else 0.0


def _image_sentences(seen: Reading, truth: Reading) -> Iterator[str]:
    if seen.residual > LEGIBLE:
        yield "No legible flag is seen."
    wanted = _visual_attributes(truth)
    wrong = {name: value for name, value in wanted.items() if getattr(seen, name) != value}
    for name, value in wrong.items():
        yield f"{_label(name)}: {value} expected, {getattr(seen, name) or 'none'} seen."
    if not wrong:
        yield "Layout, colours and symbol equal the truth."
    if seen.digits != truth.digits:
        yield f"banner: {_spell(truth)} expected, {_spell(seen)} seen."
    elif truth.banner is not None:
        yield f"The banner reads {truth.banner}, as it should."
    if seen.impurity > CLEAN:
        yield f"The colours are unclean (mean distance to the palette {seen.impurity:.0f})."


def _num_digits(reading: Reading) -> int:
    return sum(digit is not None for digit in reading.digits)


def _spell(reading: Reading) -> str:
    """The banner as read, `?` for an empty place; `no banner` when all are empty."""
    if _num_digits(reading) == 0:
        return "no banner"
    return "".join(digit or "?" for digit in reading.digits)


def _label(name: str) -> str:
    return _LABELS.get(name, name)
