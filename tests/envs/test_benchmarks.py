"""Benchmark files as tasks; every row here is made up."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError, DataError
from envs.benchmarks import load_knowgen, load_prompts, load_wise, pick
from tests.builders import png_bytes
from tests.fakes.images import MemoryImageStore


def category_of(prompt_id: int) -> str:
    if not 1 <= prompt_id <= 1000:
        raise DataError(f"prompt_id {prompt_id} is not in WISE")
    return "culture" if prompt_id <= 400 else "physics"


def wise_row(prompt_id: int, **changes: Any) -> dict[str, Any]:
    row = {
        "Prompt": f"A thing, number {prompt_id}",
        "Explanation": "It is blue.",
        "Category": "Cultural Common Sense",
        "Subcategory": "Festival",
        "prompt_id": prompt_id,
    }
    return row | changes


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_knowgen_rows_keep_what_its_tools_want_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes())
    meta = {"category": " Biology ", "difficulty": "easy"}
    rows = [{"id": 3260, "prompt": "A bird", "meta": meta, "gt_image": "a.png"}]
    (item,) = load_knowgen(write(tmp_path / "k.json", rows), images=MemoryImageStore())

    assert (item.row_id, item.task.task_id, item.label) == (3260, "3260", " Biology ")
    assert item.task.meta.category == "biology"
    assert item.truth_path == str((tmp_path / "a.png").resolve())


def test_a_wise_row_is_a_task_with_its_explanation(tmp_path: Path) -> None:
    path = write(tmp_path / "merge.json", [wise_row(7), wise_row(3)])
    items = load_wise(path, category_of=category_of)

    assert [item.row_id for item in items] == [3, 7]
    assert items[0].task.rubric == "It is blue."
    assert (items[0].task.meta.category, items[0].subcategory) == ("culture", "Festival")


def test_a_wise_folder_gives_its_category_files_alone(tmp_path: Path) -> None:
    write(tmp_path / "cultural_common_sense.json", [wise_row(1)])
    write(tmp_path / "cultural_common_sense_rewrite.json", [wise_row(1, Prompt="rewritten")])
    write(tmp_path / "natural_science_verified.json", [wise_row(901)])
    write(tmp_path / "spatio-temporal_reasoning.json", [wise_row(401)])
    write(tmp_path / "merge.json", [wise_row(1)])
    items = load_wise(tmp_path, category_of=category_of)

    assert [item.row_id for item in items] == [1, 401, 901]
    assert "rewritten" not in items[0].task.prompt


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([wise_row(1), wise_row(1)], "row 1: id 1 is also that of"),
        ([wise_row(1001)], "row 0: prompt_id: prompt_id 1001 is not in WISE; mend"),
        ([wise_row(1, Explanation=" ")], "row 0: Explanation: String should match pattern"),
        ([wise_row(1) | {"prompt_id": "1"}], "row 0: prompt_id: Input should be a valid integer"),
        ([], "holds no rows"),
        (["x"], "row 0: row: Input should be a valid dictionary"),
    ],
)
def test_a_bad_wise_row_is_named_with_its_field(
    tmp_path: Path, rows: list[Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=r"mend|download|own") as caught:
        load_wise(write(tmp_path / "w.json", rows), category_of=category_of)
    assert sentence in str(caught.value)


def test_a_missing_file_is_the_users_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_prompts(tmp_path / "none.jsonl", format="geneval")
    with pytest.raises(ConfigError, match=r"--data: there is no file .*none\.json"):
        load_knowgen(tmp_path / "none.json", images=MemoryImageStore())
    with pytest.raises(ConfigError, match="none of WISE's category files"):
        load_wise(tmp_path, category_of=category_of)


def test_geneval_prompts_are_named_by_their_place(tmp_path: Path) -> None:
    lines = [{"tag": "counting", "include": [], "prompt": f"{n} cats"} for n in range(2)]
    path = tmp_path / "g.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8-sig")
    items = load_prompts(path, format="geneval")

    assert [item.task.task_id for item in items] == ["00000", "00001"]
    assert items[1].task.meta.category == "counting"
    assert json.loads(items[1].source) == lines[1]


def test_agentgen_rows_are_prompts_of_a_domain(tmp_path: Path) -> None:
    rows = [{"bench_id": "bench_0001", "user_prompt": "A kite", "domain": "Sports"}]
    (item,) = load_prompts(write(tmp_path / "a.json", rows), format="agentgen")

    assert (item.row_id, item.task.prompt) == ("bench_0001", "A kite")
    assert item.task.meta.category == "sports"


def test_a_limit_draws_the_same_rows_in_their_order() -> None:
    items = list(range(100))
    drawn = pick(items, 10)
    assert drawn == pick(items, 10)
    assert list(drawn) == sorted(drawn)
    assert len(set(drawn)) == 10
    assert drawn != tuple(range(10)), "the first rows of a file are all of one category"
    assert pick(items, None) == pick(items, 200) == tuple(items)
