"""What the learner's benchmark compares is one and the same update."""

from collections.abc import Callable
from pathlib import Path

import pytest

import benchmarks.learner_batch
from benchmarks.learner_ways import WARM_UP, Update, Work, one_by_one, open_work, ours, padded
from tests.tiny_model import build_tiny_policy

LENGTHS = (500, 260, 250, 240)
"""Some with an image, some without."""

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(benchmarks.learner_batch, "VOCABULARY", 300)
    monkeypatch.setattr(benchmarks.learner_batch, "_FIRST_WORD", 40)
    build_tiny_policy(tmp_path / "policy")
    return tmp_path


def open_tiny(
    folder: Path, *, max_rows: int = 8, share_prefix: bool = True, alone: bool = False
) -> Work:
    return open_work(
        folder,
        dtype="float32",
        micro_batch=2,
        max_rows=max_rows,
        share_prefix=share_prefix,
        recompute=share_prefix,
        alone=alone,
    )


def norm_of_second_step(way: Callable[[Work], Update], work: Work) -> float:
    """The first is the warm-up; after it the samples are those of an older policy."""
    update = way(work)
    update(work.group(WARM_UP))
    return update(work.group(LENGTHS)).grad_norm


def test_every_way_takes_the_same_step(folder: Path) -> None:
    work = open_tiny(folder)
    norms = [norm_of_second_step(way, work) for way in (ours, padded, one_by_one)]
    norms.append(norm_of_second_step(ours, open_tiny(folder, share_prefix=False)))
    norms.append(norm_of_second_step(ours, open_tiny(folder, share_prefix=False, alone=True)))
    assert norms == pytest.approx([norms[0]] * 5, rel=1e-4)


def test_a_share_of_the_padded_rows_says_how_large_it_was(folder: Path) -> None:
    work = open_tiny(folder, max_rows=2)
    assert padded(work)(work.group(LENGTHS)).share == 0.5
