"""summary.json, scores.json and the page of an evaluation."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.bench.outputs import Evaluation, write_outputs
from cluster.bench.page import pick_cases
from cluster.bench.pipeline import Counts
from cluster.bench.plan import EvalPlan
from cluster.bench.rows import Message
from cluster.bench.rules import knowgen_rules
from cluster.bench.screen import draw_evaluation
from cluster.report.compare import compare
from cluster.report.scores import load_scores
from core.config import Config, build_config
from core.records import Stage
from tests.builders import make_failure, png_bytes
from tests.builders_bench import HALF, make_item, make_played, make_reference, make_result
from tests.fakes.images import MemoryImageStore

RULES = knowgen_rules("paper")


@pytest.fixture
def store() -> MemoryImageStore:
    return MemoryImageStore()


def config_in(folder: Path, name: str = "eval-knowgen") -> Config:
    return build_config({"run": {"root": str(folder), "name": name}})


def evaluation_of(store: MemoryImageStore, *, better: float = 0.0) -> Evaluation:
    """Ten rows: eight with a score, one without, one whose answer was missing."""
    rows = []
    for number in range(8):
        played = make_played(references=(make_reference(store.put(png_bytes((9, number, 0)))),))
        grades = HALF | {"faithfulness": (number % 3) / 2, "visual_correctness": 0.5 + better}
        item = make_item(number, category=["biology", "anime"][number % 2], prompt=f"<b>{number}")
        image = store.put(png_bytes((number, 0, 0), size=(500, 400)))
        rows.append(make_result(grades, item=item, played=played, image=image))
    failure = make_failure(Stage.JUDGE, error_type="HTTP 500", message="<script>busy</script>")
    rows.append(make_result(failure, item=make_item(8), image=store.put(png_bytes())))
    words = Message(role="assistant", text="<i>I give up")
    lost = make_played(fallback="it said nothing", gen_prompt="raw", messages=(words,))
    rows.append(make_result(item=make_item(9), played=lost, image=store.put(png_bytes())))
    plan = EvalPlan(
        benchmark="knowgen", agent="none", stages=("agent", "render", "judge"), missing="zero"
    )
    return Evaluation(
        plan=plan, rows=tuple(rows), rules=RULES, counts=Counts(made={"judge": 9}), wall_s=1.5
    )


def test_the_summary_states_its_rules_sources_and_both_figures(
    tmp_path: Path, store: MemoryImageStore
) -> None:
    tree = write_outputs(evaluation_of(store), config_in(tmp_path), images=store)

    assert json.loads((tmp_path / "eval-knowgen/summary.json").read_text()) == tree
    assert (tree["n"], tree["scored"], tree["failed"], tree["fallbacks"]) == (10, 9, 1, 1)
    assert (tree["missing"], tree["na_rule"]) == ("zero", "paper")
    assert (tree["judges"], tree["rubric_sha"]) == (["openai:eye"], ["ab" * 32])
    assert (tree["image_models"], tree["cost_usd"]) == (["painter"], 2.5)
    assert tree["headline"] == tree["overall"]["zero"]["score"]
    assert tree["overall"]["zero"]["score"]["mean"] < tree["overall"]["skip"]["score"]["mean"]
    assert set(tree["groups"]) == {"science_and_knowledge", "pop_culture_and_news"}
    assert tree["categories"]["anime"]["n"] == 4
    said = drawn({**tree, "categories": {"[/b] anime": tree["categories"]["anime"]}})
    assert "[/b] anime" in said, "a category of somebody's file is no markup"


def drawn(tree: dict[str, Any]) -> str:
    screen = io.StringIO()
    Console(file=screen).print(draw_evaluation(tree))
    return screen.getvalue()


def test_the_page_is_whole_and_trusts_no_text(tmp_path: Path, store: MemoryImageStore) -> None:
    write_outputs(evaluation_of(store), config_in(tmp_path), images=store)
    page = (tmp_path / "eval-knowgen/report.html").read_text(encoding="utf-8")

    assert "<b>3" not in page
    assert "&lt;b&gt;3" in page
    assert "<script>" not in page
    assert "data:image/jpeg;base64," in page, "large pictures are shrunk"
    assert "judge: HTTP 500" in page
    assert "the raw prompt, because it said nothing" in page
    assert "&lt;i&gt;I give up" in page, "its last words"


def test_the_worst_and_the_best_are_apart_and_in_order(store: MemoryImageStore) -> None:
    worst, best = pick_cases(evaluation_of(store).rows, rules=RULES, count=3)

    assert [case.score for case in worst] == sorted(case.score for case in worst)
    assert [case.score for case in best] == sorted((c.score for c in best), reverse=True)
    assert worst[0].score < best[0].score
    assert not {case.task_id for case in worst} & {case.task_id for case in best}
    one = evaluation_of(store).rows[:1]
    assert [len(cases) for cases in pick_cases(one, rules=RULES, count=3)] == [1, 0]


def test_two_evaluations_can_be_compared(tmp_path: Path, store: MemoryImageStore) -> None:
    for name, better in (("a", 0.0), ("b", 0.5)):
        config = config_in(tmp_path, name)
        write_outputs(evaluation_of(store, better=better), config, images=store)
    found = compare(load_scores(tmp_path / "a"), load_scores(tmp_path / "b"))

    line: Any = found.line("score")
    assert found.num_shared == 9
    assert line.difference.mean == pytest.approx(0.4 * 0.5 * 8 / 9)
    assert found.line("visual_correctness", "anime") is not None
    assert found.warnings == () or all("judge" not in warning for warning in found.warnings)
