"""What `doctor --mismatch` makes of the differences that it measured."""

import re

import pytest

from cluster.check.mismatch import problems_of
from learners.mismatch import Difference, Mismatch


def mismatch(
    *, text: float = 1e-6, after_image: float = 1e-6, blanked: float = 0.5, spread: float = 2.0
) -> Mismatch:
    """Means; the largest difference is `spread` times as large."""
    return Mismatch(
        **{
            name: Difference(num_tokens=100, mean=mean, max=mean * spread)
            for name, mean in (("text", text), ("after_image", after_image), ("blanked", blanked))
        }
    )


def test_rounding_is_no_problem() -> None:
    assert problems_of(mismatch(), exact=True) == ()
    assert problems_of(mismatch(text=0.01, after_image=0.02), exact=False) == ()


@pytest.mark.parametrize(
    ("found", "exact", "sentence"),
    [
        (mismatch(text=6e-5), True, "on text tokens .* 6e-05 on average and 0.00012 at most"),
        (mismatch(after_image=0.01), True, "after an image .* other pixels or positions"),
        (mismatch(after_image=float("nan")), True, "after an image .* by nan"),
        (mismatch(text=0.06), False, "on text tokens .* 0.05 on average at most is rounding"),
        (mismatch(blanked=0.01), True, "only 0.01 on average, so their agreement proves nothing"),
        (mismatch(after_image=0.04, blanked=0.1), False, "only 0.1 on average"),
        (mismatch(blanked=float("nan")), True, "only nan on average"),
    ],
)
def test_each_problem_is_a_sentence_with_its_numbers(
    found: Mismatch, exact: bool, sentence: str
) -> None:
    (problem,) = problems_of(found, exact=exact)

    assert re.search(sentence, problem), problem
