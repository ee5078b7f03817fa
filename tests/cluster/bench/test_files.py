"""Results in the shapes of the benchmarks' own tools: exactly the published fields (fixtures)."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster.bench.knowgen_files import write_knowgen_files
from cluster.bench.pictures import file_stem
from cluster.bench.prompt_files import write_prompt_files
from cluster.bench.rows import AgentRow, Message, RowResult
from cluster.bench.rules import knowgen_rules
from cluster.bench.wise_files import write_wise_files
from core.records import Stage
from envs.benchmarks import BenchTask
from tests.builders import make_failure, make_task, png_bytes
from tests.builders_bench import (
    HALF,
    make_item,
    make_played,
    make_reference,
    make_result,
)
from tests.fakes.images import MemoryImageStore

SHAPES = json.loads((Path(__file__).parent / "published_shapes.json").read_text())
"""Made-up rows with exactly the fields that the published tools write and read."""


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def same_fields(made: Any, shape: Any) -> None:
    """Equal keys, all the way down; of a list, the first item stands for all."""
    if isinstance(shape, dict):
        assert set(made) == set(shape)
        for key, value in shape.items():
            same_fields(made[key], value)
    elif isinstance(shape, list) and shape:
        assert made, "an empty list shows nothing"
        for item in made:
            same_fields(item, shape[0])
    elif shape is not None:
        assert isinstance(made, type(shape) if not isinstance(shape, bool) else bool)


@pytest.fixture
def store() -> MemoryImageStore:
    return MemoryImageStore()


def whole_row(store: MemoryImageStore, ordinal: int = 3260) -> RowResult:
    reference = store.put(png_bytes((0, 0, 255)))
    played = make_played(
        references=(make_reference(reference),),
        messages=(Message(role="user", text="found", images=(reference,)),),
    )
    image = store.put(png_bytes((0, 255, 0)))
    return make_result(item=make_item(ordinal), played=played, image=image)


def knowgen(rows: list[RowResult], folder: Path, store: MemoryImageStore, missing: Any) -> None:
    rules = knowgen_rules("paper")
    write_knowgen_files(rows, folder, images=store, rules=rules, missing=missing)


def test_knowgen_rows_have_the_published_fields(tmp_path: Path, store: MemoryImageStore) -> None:
    wordless = make_result(
        HALF | {"text_accuracy": None},
        item=make_item(2, category="anime"),
        image=store.put(png_bytes()),
    )
    knowgen([whole_row(store), wordless], tmp_path, store, "zero")
    agent = read(tmp_path / "agent/results.json")
    generation = read(tmp_path / "generation/results.json")
    evaluated = read(tmp_path / "generation/results_eval.json")

    same_fields(agent[0], SHAPES["knowgen_agent"])
    same_fields(generation[0], SHAPES["knowgen_generation"])
    same_fields(evaluated[0], SHAPES["knowgen_eval"])
    same_fields(evaluated[1]["scores"], SHAPES["knowgen_scores_without_text"])
    assert (agent[0]["id"], agent[0]["termination"]) == (3260, "answer")
    assert Image.open(tmp_path / "agent" / agent[0]["reference_images"][0]["local_path"])
    assert Image.open(tmp_path / "generation" / generation[0]["output_path"]).format == "PNG"
    assert (tmp_path / "generation" / generation[0]["used_images"][0]).is_file()


def test_knowgen_ends_with_three_rows_of_means(tmp_path: Path, store: MemoryImageStore) -> None:
    rows = [whole_row(store)]
    unjudged = make_failure(Stage.JUDGE)
    rows.append(make_result(unjudged, item=make_item(4), image=store.put(png_bytes())))
    for missing, expected in (("skip", 0.5), ("zero", 0.25), ("fail", None)):
        knowgen(rows, tmp_path / missing, store, missing)
        written = read(tmp_path / missing / "generation/results_eval.json")
        assert written[1]["eval_success"] is False
        assert written[1]["error"] == "the replica did not answer"
        means = written[2:]
        if expected is None:
            assert means == []
            continue
        same_fields(means[0], SHAPES["knowgen_means"])
        names = [row["summary_type"] for row in means]
        assert names == ["science_and_knowledge", "pop_culture_and_news", "overall_avg"]
        assert means[0]["avg_scores"]["overall"] == expected
        assert {row["missing"] for row in means} == {missing}


def test_a_row_on_its_way_is_pending_and_a_failed_one_says_why(
    tmp_path: Path, store: MemoryImageStore
) -> None:
    waiting = RowResult(item=make_item(1), agent=None, render=None, judge=None)
    failed = make_failure(Stage.INFRA, message="no engine")
    row = AgentRow(task_id="2", of="o", by="b", outcome=failed, seconds=0.0)
    broken = RowResult(item=make_item(2), agent=row, render=None, judge=None)
    knowgen([waiting, broken], tmp_path, store, "skip")
    generation = read(tmp_path / "generation/results.json")

    assert generation[0] == {"id": 1, "pending": True}
    assert (generation[1]["success"], generation[1]["error"]) == (False, "no engine")
    assert read(tmp_path / "agent/results.json")[1]["termination"] == "error"


def test_a_fallback_has_no_grounded_prompt(tmp_path: Path, store: MemoryImageStore) -> None:
    played = make_played(gen_prompt="raw", fallback="no answer", stop_reason="bad_answer")
    row = make_result(played=played, image=store.put(png_bytes()))
    knowgen([row], tmp_path, store, "skip")

    (agent,) = read(tmp_path / "agent/results.json")
    (generation,) = read(tmp_path / "generation/results.json")
    assert (agent["gen_prompt"], agent["termination"]) == ("", "answer_parse_failed")
    assert (generation["gen_prompt"], generation["used_prompt"]) == ("", "raw")


def wise_row(
    number: int, category: str, store: MemoryImageStore, outcome: Any, subcategory: str = "Plant"
) -> RowResult:
    made = make_item(number, category=category)
    task = make_task(number, task_id=str(number), meta=made.task.meta, rubric="It is blue.")
    item = BenchTask(task=task, row_id=number, label="x", subcategory=subcategory)
    return make_result(outcome, item=item, image=store.put(png_bytes((number % 256, 0, 0))))


def test_wise_files_have_the_published_fields(tmp_path: Path, store: MemoryImageStore) -> None:
    legacy = {"consistency": 2.0, "realism": 1.0, "aesthetic_quality": 0.0}
    rows = [
        wise_row(1, "culture", store, legacy),
        wise_row(2, "culture", store, make_failure(Stage.JUDGE, error_type="HTTP 500")),
        wise_row(701, "biology", store, {"score": 1.0}),
    ]
    write_wise_files(rows, tmp_path, images=store)

    full = read(tmp_path / "cultural_common_sense_full_results.json")
    same_fields(full[0], SHAPES["wise_full"])
    assert full[0]["evaluation"] == "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
    assert full[1]["evaluation"] == "Evaluation failed: judge: HTTP 500"
    scores = (tmp_path / "cultural_common_sense_scores_results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in scores] == [SHAPES["wise_legacy_scores"]]
    (line,) = (tmp_path / "natural_science_scores_results.jsonl").read_text().splitlines()
    assert json.loads(line) == SHAPES["wise_verified_scores"]
    assert Image.open(tmp_path / "images/701.png").format == "PNG"


def test_geneval_and_agentgen_pictures_lie_where_their_tools_look(
    tmp_path: Path, store: MemoryImageStore
) -> None:
    task = make_task(0, task_id="00000")
    item = BenchTask(task=task, row_id="00000", label="", source='{"prompt": "a cat"}')
    row = make_result(item=item, image=store.put(png_bytes()))
    write_prompt_files([row], tmp_path, images=store, format="geneval")
    assert read(tmp_path / "00000/metadata.jsonl") == {"prompt": "a cat"}
    assert Image.open(tmp_path / "00000/samples/00000.png").format == "PNG"

    write_prompt_files([row], tmp_path / "a", images=store, format="agentgen")
    line = read(tmp_path / "a/predictions.jsonl")
    assert line == {"bench_id": "00000", "generator": "painter", "image_path": "images/00000.png"}


@pytest.mark.parametrize("task_id", ["../x", "a/b", "", ".hidden", "x" * 200, "a\x00b"])
def test_an_id_never_names_a_path(task_id: str) -> None:
    stem = file_stem(task_id)
    assert len(stem) == 24
    assert stem.isalnum()


def test_a_plain_id_names_its_file() -> None:
    assert file_stem("bench_0001") == "bench_0001"
